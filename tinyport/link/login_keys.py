"""Keys of a login: made here, and only their public halves leave this machine."""

from __future__ import annotations

from tinyport.core.signatures import Ed25519Key


class LoginKeys:
    """A fresh SSH key and a fresh TLS key, as texts.

    ``ssh_key``: OpenSSH PEM; ``ssh_public_blob``: its public half; ``tls_key``: PKCS#8 PEM; ``tls_csr``: PEM.
    """

    def __init__(self, user: str) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.x509.oid import NameOID

        ssh = Ed25519Key.generate()
        self.ssh_key = ssh.to_openssh().decode("ascii")
        self.ssh_public_blob = ssh.public_blob
        tls = Ed25519PrivateKey.generate()
        self.tls_key = tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
        # The name in the request decides nothing: auth writes its own into the certificate.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user[:64])])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(tls, None)
        self.tls_csr = request.public_bytes(Encoding.PEM).decode("ascii")
