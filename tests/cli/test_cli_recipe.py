"""The recipe: where it lies, what it survives, a clip made again from it, two compared, and who signs for it."""

from __future__ import annotations

import datetime
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from sky4.media import read_recipe
from sky4.media.xmp import read_recipe_text
from sky4cli.main import main
from sky4cli.recipes import Difference, differences

ROOT = Path(__file__).resolve().parents[2]
Sky4 = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sky4(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sky4:
    """Run a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        making = ("--prompt", "a red circle", "--model", str(nano_model), "--quiet") if argv[0] == "generate" else ()
        code = main([*argv, *making])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def made(sky4: Sky4, *argv: str) -> None:
    code, _, said = sky4("generate", *argv)
    assert code == 0, said


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.wav", "a.png", "folder"])
def test_it_lies_inside_every_format_and_only_where_it_is_wanted(sky4: Sky4, name: str) -> None:
    made(sky4, "-o", name)
    inside = read_recipe(Path(name))
    assert inside["clip"]["frames"] == inside["request"]["frames"]
    made(sky4, "-o", f"bare-{name}", "--no-metadata")
    code, _, said = sky4("show", f"bare-{name}")
    assert (code, "holds no sky4 recipe" in said) == (2, True)
    made(sky4, "-o", f"beside-{name}", "--no-metadata", "--sidecar")
    assert read_recipe(Path(f"beside-{name}")) == inside == read_recipe(Path(f"beside-{name}.json"))
    holders = [f"bare-{name}", f"beside-{name}"]
    for path in (file for holder in holders for file in (Path(holder), *Path(holder).glob("*")) if file.is_file()):
        assert b"a red circle" not in path.read_bytes(), path


def test_the_xmp_box_is_one_that_libav_reads_too_and_survives_a_lost_comment(sky4: Sky4, tmp_path: Path) -> None:
    made(sky4, "-o", "a.mp4")
    recipe = read_recipe(tmp_path / "a.mp4")
    with av.open("a.mp4", options={"export_xmp": "1"}) as container:
        packet = container.metadata["xmp"]
    assert "trainedAlgorithmicMedia" in packet
    data = Path("a.mp4").read_bytes()
    assert data.count(b'"sky4-recipe"') == 2  # the comment, and behind it the XMP
    lost = data.replace(b'"format":"sky4-recipe"', b'"format":"else-recipe"', 1)
    Path("b.mp4").write_bytes(lost)
    assert json.loads(read_recipe_text(tmp_path / "b.mp4")) == recipe == read_recipe(tmp_path / "b.mp4")


def test_hostile_xmp_is_no_recipe_and_costs_nothing(tmp_path: Path) -> None:
    uuid = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
    entities = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    nested = b"<a>" * 100_000
    for content in (entities, nested, b"", b"\xff\xfe", b"<x/>"):
        (tmp_path / "a.mp4").write_bytes(struct.pack(">I4s16s", 24 + len(content), b"uuid", uuid) + content)
        assert read_recipe_text(tmp_path / "a.mp4") == ""
    for head in (struct.pack(">I4s", 2**32 - 1, b"uuid"), struct.pack(">I4sQ", 1, b"uuid", 2**63), b"\0" * 64):
        (tmp_path / "a.mp4").write_bytes(head)
        assert read_recipe_text(tmp_path / "a.mp4") == ""


def test_a_recipe_nested_without_end_is_none(sky4: Sky4) -> None:
    Path("a.json").write_text('{"format":"sky4-recipe","a":' + "[" * 200_000)
    code, _, said = sky4("show", "a.json")
    assert (code, said.count("\n")) == (2, 1)


def test_a_pipe_is_not_waited_for(sky4: Sky4) -> None:
    os.mkfifo("pipe.mp4")
    os.mkfifo("pipe.png")
    for name in ("pipe.mp4", "pipe.png"):
        for argv in (("show", name), ("rerun", name, "--verify"), ("diff", name, name), ("check", name)):
            code, _, said = sky4(*argv)
            assert (code, said.count("\n")) == (2, 1)


def test_a_sidecar_that_is_there_is_not_replaced(sky4: Sky4) -> None:
    Path("a.mp4.json").write_text("mine")
    code, _, said = sky4("generate", "-o", "a.mp4", "--sidecar")
    assert (code, "'a.mp4.json' exists already" in said) == (2, True)
    assert (Path("a.mp4.json").read_text(), Path("a.mp4").exists()) == ("mine", False)
    made(sky4, "-o", "a.mp4", "--sidecar", "--force")
    assert read_recipe(Path("a.mp4.json")) == read_recipe(Path("a.mp4"))


def test_rerun_changes_what_is_set_and_nothing_else(sky4: Sky4) -> None:
    made(sky4, "-o", "a.mp4")
    assert sky4("rerun", "a.mp4", "--set", "seed=7", "--set", "prompt=7", "-o", "b.mp4", "--quiet")[0] == 0
    code, told, _ = sky4("diff", "a.mp4", "b.mp4", "--json")
    assert code == 1
    assert [one["path"] for one in json.loads(told)["differences"]] == [
        *("request.prompt", "request.seed", "latents.video", "latents.audio")
    ]
    again = sky4("rerun", "b.mp4", "--set", "seed=0", "--set", "prompt=a red circle", "-o", "c.mp4", "--quiet")
    assert again[0] == 0
    assert sky4("diff", "a.mp4", "c.mp4")[:2] == (0, "")


def test_verify_compares_and_writes_nothing(sky4: Sky4, tmp_path: Path) -> None:
    made(sky4, "-o", "a.mp4", "--sidecar")
    before = sorted(tmp_path.iterdir())
    code, told, _ = sky4("rerun", "a.mp4", "--verify", "--quiet")
    assert (code, "the same, bit for bit" in told) == (0, True)
    assert sorted(tmp_path.iterdir()) == before
    recipe = json.loads(Path("a.mp4.json").read_text())
    recipe["latents"]["audio"] = f"sha256:{'0' * 64}"
    Path("other.json").write_text(json.dumps(recipe))
    code, _, said = sky4("rerun", "other.json", "--verify", "--quiet")
    assert (code, "differ from those of 'other.json'" in said) == (1, True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "-o is missing"),
        (("--verify", "-o", "b.mp4"), "--verify compares the clip as it was made and writes nothing; drop -o b.mp4"),
        (("--verify", "--set", "seed=1"), "drop --set"),
        (("-o", "b.mp4", "--set", "seed"), "--set seed: expected NAME=VALUE"),
        (("-o", "b.mp4", "--set", "smell=1"), "'smell' is no setting of this recipe; there are prompt"),
        (("-o", "b.mp4", "--set", "seed=many"), "--set seed=many: request.seed must be of type int"),
        (("-o", "b.mp4", "--set", "steps=0"), "--set steps=0: --steps: the number of steps 0 is outside 1 to 1000"),
        (("-o", "b.mp4", "--set", "fps=1/0"), "--set fps=1/0"),
    ],
)
def test_a_rerun_that_cannot_be_is_one_sentence(
    sky4: Sky4, nano_model: Path, argv: tuple[str, ...], words: str
) -> None:
    Path("a.json").write_text(json.dumps(plain_recipe(nano_model)))
    code, _, said = sky4("rerun", "a.json", *argv)
    assert (code, said.count("\n")) == (2, 1)
    assert words in said


def plain_recipe(model: Path) -> dict:
    request = {"version": 1, "prompt": "a", "width": 32, "height": 32, "frames": 9, "fps": "16", "steps": 1}
    request |= {"guidance": 1, "audio_guidance": 1, "shift": 1}
    computed = {"device": "cpu", "dtype": "float32", "attention_backend": "auto", "threads": 1}
    return {
        "format": "sky4-recipe",
        "version": 1,
        "request": request,
        "model": {"path": str(model)},
        "computed": computed,
    }


def test_a_recipe_of_a_later_version_is_not_guessed_at(sky4: Sky4, nano_model: Path) -> None:
    Path("a.json").write_text(json.dumps(plain_recipe(nano_model) | {"version": 2}))
    code, _, said = sky4("rerun", "a.json", "--verify")
    assert (code, "version 2, this sky4 reads 1" in said) == (2, True)


def test_the_schema_names_every_key(sky4: Sky4) -> None:
    made(sky4, "-o", "a.mp4")
    schema = (ROOT / "python_model" / "sky4" / "media" / "RECIPE.md").read_text("utf-8")
    recipe = read_recipe(Path("a.mp4"))
    inner = [key for table in ("clip", "model", "computed", "latents") for key in recipe[table]]
    assert [key for key in (*recipe, *inner) if f"`{key}`" not in schema] == []


def test_differences_are_told_by_path() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    after = {"a": {"b": 2, "c": [1, 3, 4]}, "e": {}}
    assert differences(before, after) == [
        Difference("a.b", 1, 2),
        Difference("a.c[1]", 2, 3),
        Difference("d", None, None),
        Difference("a.c[2]", None, 4),
        Difference("e", None, {}),
    ]
    assert differences(before, before) == []


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(certificate chain, key): a signer of a test authority of our own."""
    pytest.importorskip("c2pa", reason="the extra c2pa is not installed")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
        )

    def usage(sign: bool) -> x509.KeyUsage:
        return x509.KeyUsage(sign, False, False, False, False, not sign, not sign, False, False)

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    folder = tmp_path_factory.mktemp("certificates")
    pems = []
    for subject, key, authority in (("Test signer", leaf, False), ("Test authority", root, True)):
        builder = x509.CertificateBuilder(name("Test authority"), name(subject), key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(30))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), True)
        builder = builder.add_extension(usage(not authority), True)
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
        pems.append(builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "chain.pem").write_bytes(b"".join(pems))
    (folder / "key.pem").write_bytes(leaf.private_bytes(*encoding))
    return str(folder / "chain.pem"), str(folder / "key.pem")


@pytest.mark.parametrize("out", ["a.mp4", "a.mov", "a.png", "a.wav"])
def test_a_signature_holds_until_the_file_is_changed(sky4: Sky4, chain: tuple[str, str], out: str) -> None:
    made(sky4, "-o", out, "--c2pa", *chain)
    code, told, said = sky4("show", out, "--json")
    assert code == 0, said
    recipe = json.loads(told)
    assert recipe["content_credentials"]["valid"] is True
    assert recipe["content_credentials"]["signer"] == "Test signer"
    assert sky4("rerun", out, "--verify", "--quiet")[0] == 0
    data = bytearray(Path(out).read_bytes())
    at = data.index(b"a red circle")
    data[at : at + 5] = b"a blu"
    Path(out).write_bytes(data)
    code, _, said = sky4("show", out)
    assert (code, "Content Credentials of" in said, "do not hold" in said) == (1, True, True)


@pytest.mark.parametrize(
    ("out", "flags", "words"),
    [
        ("a.mkv", ("chain", "key"), "holds no Content Credentials; use .mp4"),
        ("folder", ("chain", "key"), "holds no Content Credentials"),
        ("a.mp4", ("gone.pem", "key"), "'gone.pem' cannot be read"),
        ("a.mp4", ("text.pem", "key"), "'text.pem' is no PEM file"),
        ("a.mp4", ("chain", "chain"), "is no private key without a password"),
        ("a.mp4", ("key", "key"), "nothing can be signed with them"),
    ],
)
def test_what_cannot_be_signed_is_told_before_anything_is_made(
    sky4: Sky4, chain: tuple[str, str], out: str, flags: tuple[str, str], words: str, tmp_path: Path
) -> None:
    Path("text.pem").write_text("hello")
    named = {"chain": chain[0], "key": chain[1]}
    code, _, said = sky4("generate", "-o", out, "--c2pa", *(named.get(flag, flag) for flag in flags))
    assert (code, said.count("\n")) == (2, 1), said
    assert words in said
    assert [path.name for path in tmp_path.iterdir()] == ["text.pem"]
