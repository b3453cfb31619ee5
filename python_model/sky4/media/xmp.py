"""The recipe as XMP in a box of its own at the end of an MP4 or MOV: what chat apps that drop comments leave alone.

A packet of XMP lies in a `uuid` box with Adobe's identifier, where ExifTool and players look for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
NAMESPACE = "urn:sky4:recipe:1"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MOST_BYTES = 16 * 2**20  # of a packet: a recipe is some kilobytes, and a hostile file must not fill the memory
MOST_BOXES = 10_000

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:sky4="{namespace}">
<xmp:CreatorTool>{tool}</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
<sky4:Recipe>{recipe}</sky4:Recipe>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def packet(recipe: str, tool: str, source: str) -> bytes:
    """XMP that carries the recipe's JSON, the program's name and the IPTC word for where such media come from."""
    return PACKET.format(namespace=NAMESPACE, tool=escape(tool), source=source, recipe=escape(recipe)).encode()


def append(path: Path, content: bytes) -> None:
    """Put a packet behind the last box of a finished MP4 or MOV; nothing that is there moves."""
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(content), b"uuid", UUID) + content)


def read_recipe_text(path: Path) -> str:
    """The recipe's JSON from a file's XMP box; "" where there is none, or what is there is no XMP of ours."""
    try:
        with path.open("rb") as file:
            for kind, size in _boxes(file):
                if kind == b"uuid" and 16 <= size <= MOST_BYTES and file.read(16) == UUID:
                    return _recipe_of(file.read(size - 16))
    except (OSError, ValueError, OverflowError):
        pass
    return ""


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, bytes of content) of the file's boxes, the file standing at the content."""
    end, at = file.seek(0, 2), 0
    for _ in range(MOST_BOXES):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head)
        used = 8
        if size == 1:
            size, used = int.from_bytes(file.read(8), "big"), 16
        size = size or end - at  # 0: up to the end
        if size < used or at + size > end:
            return
        yield kind, size - used
        at += size


def _recipe_of(content: bytes) -> str:
    # a declared entity could grow without end; XMP has none
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        return ""
    try:
        tree = ElementTree.fromstring(content.strip(b"\0 \n"))
    except ElementTree.ParseError:
        return ""
    name = f"{{{NAMESPACE}}}Recipe"
    for element in tree.iter():  # as we write it, or as an attribute, which other tools turn it into
        if element.tag == name:
            return element.text or ""
        if name in element.attrib:
            return element.attrib[name]
    return ""
