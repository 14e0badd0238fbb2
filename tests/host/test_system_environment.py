from __future__ import annotations

from pathlib import Path

from tinyport.host.system_environment import clean, read_environment


def test_as_pam_env_reads_it(tmp_path: Path) -> None:
    first, second = tmp_path / "environment", tmp_path / "locale"
    first.write_text(
        '# a comment\n\nPATH="/usr/local/bin:/usr/bin"\nexport EDITOR=vi\nLANG=C\n'
        "QUOTED='a b'\nREST=a b # but not this\n"
        "1BAD=x\nno assignment\n=nothing\nSP ACE=x\n"
    )
    second.write_text("LANG=de_DE.UTF-8\n")
    assert read_environment((str(first), str(tmp_path / "absent"), str(second))) == {
        "PATH": "/usr/local/bin:/usr/bin",
        "EDITOR": "vi",
        "LANG": "de_DE.UTF-8",
        "QUOTED": "a b",
        "REST": "a b",
    }


def test_bounds(tmp_path: Path) -> None:
    path = tmp_path / "environment"
    path.write_text("".join(f"V{number}={'x' * 1000}\n" for number in range(1000)))
    assert len(read_environment((str(path),))) <= 64


def test_what_is_the_sessions_own() -> None:
    assert clean({"HOME": "/root", "USER": "root", "LANG": "C"}) == {"LANG": "C"}
