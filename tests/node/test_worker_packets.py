"""The worker's ciphers beside asyncssh's own: the same bytes on the wire, and no message that was changed."""

from __future__ import annotations

from typing import Any

import pytest
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_IGNORE
from asyncssh.encryption import ChachaEncryption, Encryption, GCMEncryption
from hypothesis import given
from hypothesis import strategies as st

from tinyport.node.worker.packets import PIECE, ChaCha, Gcm, LeanPackets

KEY, IV = bytes(range(64)), bytes(range(100, 112))
HEADER = (36).to_bytes(4, "big")

PAIRS = [
    pytest.param("aes128-gcm", 16, Gcm, GCMEncryption, id="aes128-gcm"),
    pytest.param("aes256-gcm", 32, Gcm, GCMEncryption, id="aes256-gcm"),
    pytest.param("chacha20-poly1305", 64, ChaCha, ChachaEncryption, id="chacha20-poly1305"),
]


def sealed(encryption: Encryption, seq: int, packet: bytes) -> bytes:
    data, mac = encryption.encrypt_packet(seq, len(packet).to_bytes(4, "big"), packet)
    return data + mac


def opened(encryption: Encryption, seq: int, data: bytes, block: int = 16) -> bytes | None:
    """As asyncssh reads: a block, then what its header promises, then the tag."""
    first, header = encryption.decrypt_header(seq, data[:block], 4)
    end = 4 + int.from_bytes(header, "big")
    return encryption.decrypt_packet(seq, first, data[block:end], 4, data[end : end + 16])


@pytest.mark.parametrize(("name", "size", "ours", "theirs"), PAIRS)
@given(packets=st.lists(st.binary(min_size=16, max_size=300), min_size=1, max_size=5), start=st.integers(0, 2**32 - 9))
def test_both_speak_the_same(name: str, size: int, ours: Any, theirs: Any, packets: list[bytes], start: int) -> None:
    a, b = ours.new(name, KEY[:size], IV), theirs.new(name, KEY[:size], IV)
    c, d = ours.new(name, KEY[:size], IV), theirs.new(name, KEY[:size], IV)
    e = ours.new(name, KEY[:size], IV)
    assert ours.get_mac_params(b"") == theirs.get_mac_params(b"")
    for seq, packet in enumerate(packets, start):
        made = sealed(a, seq, packet)
        assert made == sealed(b, seq, packet)
        assert opened(c, seq, made) == packet
        assert opened(d, seq, made) == packet
        # In one piece, which may be read twice; a changed one may not, and leaves no trace.
        changed = bytearray(made)
        changed[-1] ^= 1
        assert e.unseal(seq, memoryview(changed)) is None
        assert e.unseal(seq, memoryview(made)) == packet
        e.put_back()
        assert opened(e, seq, made) == packet


@pytest.mark.parametrize(("name", "size", "ours", "theirs"), PAIRS)
@pytest.mark.parametrize("at", [0, 4, 20, 39, 40, 55])
def test_a_changed_byte_is_noticed(name: str, size: int, ours: Any, theirs: Any, at: int) -> None:
    del theirs
    whole = sealed(ours.new(name, KEY[:size], IV), 7, bytes(36))
    changed = bytearray(whole)
    changed[at] ^= 1
    first, _ = (reader := ours.new(name, KEY[:size], IV)).decrypt_header(7, bytes(changed[:16]), 4)
    assert reader.decrypt_packet(7, first, bytes(changed[16:40]), 4, bytes(changed[40:])) is None


@pytest.mark.parametrize(("name", "size", "ours", "theirs"), PAIRS)
def test_a_packet_of_another_place_is_noticed(name: str, size: int, ours: Any, theirs: Any) -> None:
    del theirs
    writer, reader = ours.new(name, KEY[:size], IV), ours.new(name, KEY[:size], IV)
    first, second = (sealed(writer, seq, bytes(36)) for seq in (3, 4))
    assert first != second
    # Swapped: the second where the first should be.
    try:
        found = opened(reader, 3, second)
    except OverflowError:
        found = None
    assert found is None


def test_packets_are_sent_without_an_ignore_before_each(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncssh

    sent: list[int] = []
    monkeypatch.setattr(
        asyncssh.SSHServerConnection, "send_packet", lambda self, kind, *args, handler: sent.append(kind)
    )
    connection = LeanPackets.__new__(LeanPackets)
    connection.send_packet(MSG_IGNORE, bytes(4))
    connection.send_packet(94, b"data", handler=connection)
    assert sent == [94]


def test_what_comes_in_is_parsed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncssh

    came: list[bytes] = []
    monkeypatch.setattr(asyncssh.SSHServerConnection, "data_received", lambda self, data, datatype: came.append(data))
    connection = LeanPackets.__new__(LeanPackets)
    connection._auth_complete = False
    whole = bytes(range(256)) * (PIECE // 100)
    connection.data_received(whole)
    assert b"".join(came) == whole
    assert max(map(len, came)) == PIECE


class Listening:
    """A channel, as far as the short path for data sees one."""

    _recv_state = "open"

    def __init__(self, window: int) -> None:
        self._recv_window = window
        self.came: list[bytes] = []

    def _accept_data(self, data: bytes) -> None:
        self.came.append(data)


def data_packet(channel: int, data: bytes, *, kind: int = MSG_CHANNEL_DATA, size: int | None = None) -> bytes:
    length = len(data) if size is None else size
    payload = bytes((kind,)) + channel.to_bytes(4, "big") + length.to_bytes(4, "big") + data
    padding = -(1 + len(payload)) % 16 + 16
    return bytes((padding,)) + payload + bytes(padding)


@pytest.mark.parametrize(("name", "size", "ours", "theirs"), PAIRS)
def test_data_goes_straight_to_its_channel(name: str, size: int, ours: Any, theirs: Any) -> None:
    """And what is anything else, or has no room, is asyncssh's to judge, unread."""
    writer = theirs.new(name, KEY[:size], IV)
    channel = Listening(5000)
    connection = LeanPackets.__new__(LeanPackets)
    connection._recv_encryption = ours.new(name, KEY[:size], IV)
    connection._recv_seq = 7
    connection._channels = {3: channel}  # type: ignore[dict-item]

    def take(packet: bytes) -> bool:
        return connection._take_packet(memoryview(sealed(writer, connection._recv_seq, packet)))

    assert take(data_packet(3, bytes(4000)))
    assert take(data_packet(3, b"x" * 5000))
    assert (channel.came, connection._recv_seq) == ([bytes(4000), b"x" * 5000], 9)
    refused = [
        data_packet(3, bytes(5001)),
        data_packet(4, bytes(4000)),
        data_packet(3, bytes(4000), kind=95),
        data_packet(3, bytes(4000), size=3999),
        data_packet(3, bytes(4000), size=2**32 - 1),
    ]
    for packet in refused:
        whole = sealed(writer, 9, packet)
        assert not connection._take_packet(memoryview(whole))
        assert opened(connection._recv_encryption, 9, whole) == packet
    channel._recv_state = "eof"
    assert not take(data_packet(3, bytes(4000)))
    assert (len(channel.came), connection._recv_seq) == (2, 9)
