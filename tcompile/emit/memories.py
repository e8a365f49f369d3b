"""Memory files for ``$readmemh``; constant memories that hold the same share one."""

from __future__ import annotations

from collections.abc import Iterable

from tcompile.simulate.netlist import Rom

__all__ = ["hex_text", "memory_files"]


def hex_text(words: Iterable[int], width: int) -> bytes:
    """One word per line, in as many digits as `width` bits need."""
    form = f"{{:0{-(-width // 4)}x}}\n"
    return "".join(map(form.format, words)).encode()


def memory_files(roms: Iterable[Rom], *, loadable: bool = False) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files by name, and the name of each memory's file; the first memory with a content gives the name.

    Memories that can be loaded have files of their own.
    """
    files: dict[str, bytes] = {}
    owners: dict[bytes, str] = {}
    names: dict[str, str] = {}
    for rom in roms:
        content, own = hex_text(rom.words, rom.shape.width), f"{rom.name}.mem"
        name = own if loadable else owners.setdefault(content, own)
        files[name] = content
        names[rom.name] = name
    return files, names
