"""Packets in a stream of bytes, framed as HDLC does on asynchronous lines (RFC 1662).

A packet is a body of one byte or more and its CRC-32 (that of Ethernet and zlib, least significant byte first), between
two bytes `FLAG`. A `FLAG` or `ESCAPE` inside is sent as `ESCAPE` and the byte with bit 5 turned over. A flag never
occurs inside of a packet, so whoever comes late or lost a byte is back in step at the next one. Flags may be repeated.
`encode` and `decode` are the models.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

__all__ = ["ESCAPE", "FLAG", "PacketReader", "PacketWriter", "decode", "encode"]

FLAG, ESCAPE, TURNED = 0x7E, 0x7D, 0x20
CRC_BYTES = 4

BYTE_OF_PACKET = data.StructLayout({"data": 8, "last": 1})


def encode(body: bytes) -> bytes:
    """A packet, flags included."""
    inner = body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")
    stuffed = b"".join(bytes([ESCAPE, b ^ TURNED]) if b in (FLAG, ESCAPE) else bytes([b]) for b in inner)
    return bytes([FLAG]) + stuffed + bytes([FLAG])


def decode(line: Iterable[int | None]) -> list[bytes | None]:
    """Bodies of the packets in a stream of bytes; None for one that is broken.

    A None among the bytes is one that was not received well. What follows the last flag is not a packet yet.
    """
    found: list[bytes | None] = []
    inner, escaped, broken = bytearray(), False, False
    for byte in line:
        if byte is None:
            broken = True
        elif byte == FLAG:
            if inner or escaped or broken:
                body, crc = bytes(inner[:-CRC_BYTES]), inner[-CRC_BYTES:]
                right = bool(body) and zlib.crc32(body).to_bytes(CRC_BYTES, "little") == crc
                found.append(body if right and not escaped and not broken else None)
            inner, escaped, broken = bytearray(), False, False
        elif byte == ESCAPE:
            escaped = True
        else:
            inner.append(byte ^ TURNED if escaped else byte)
            escaped = False
    return found


@dataclass(frozen=True)
class PacketReader:
    """Finds the packets in a stream of bytes that cannot be stopped; it takes a byte per cycle.

    Bytes of a body are given as they come; whether it was whole is known at its end only.

    Members
    -------
    data : In(8)
    strobe : In(1)
        A byte arrives.
    broken : In(1)
        A byte arrived that was not received well; not together with `strobe`.
    body : Out(8)
    body_strobe : Out(1)
        A byte of the body.
    end : Out(1)
        The packet is over; not together with `body_strobe`.
    good : Out(1)
        With `end`: it was whole and its checksum right.
    """

    def component(self) -> wiring.Component:
        """The gateware."""
        return _PacketReader()


@dataclass(frozen=True)
class PacketWriter:
    """Makes packets of bodies.

    Members
    -------
    i : In(stream)
        Bytes of bodies: `data`, and `last` at the end of each.
    o : Out(stream)
        Bytes for the line, a flag before and a flag behind each packet.
    """

    def component(self) -> wiring.Component:
        """The gateware."""
        return _PacketWriter()


class _PacketReader(wiring.Component):
    def __init__(self) -> None:
        ins = {"data": In(8), "strobe": In(1), "broken": In(1)}
        super().__init__(ins | {"body": Out(8), "body_strobe": Out(1), "end": Out(1), "good": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=8).create()
        held, waiting = Signal(8 * CRC_BYTES), Signal(range(CRC_BYTES + 1))  # the last bytes may be the checksum
        some, escaped, spoilt = Signal(), Signal(), Signal()
        flag, plain = Signal(), Signal()
        m.d.comb += [
            flag.eq(self.strobe & (self.data == FLAG)),
            plain.eq(self.strobe & (self.data != FLAG) & (self.data != ESCAPE)),
            crc.data.eq(self.data ^ Mux(escaped, TURNED, 0)),
            crc.valid.eq(plain),
            crc.start.eq(flag),
        ]
        m.d.sync += [
            self.body.eq(held[:8]),
            self.body_strobe.eq(plain & (waiting == CRC_BYTES)),
            self.end.eq(flag & (waiting.any() | escaped | spoilt)),
            self.good.eq(crc.match_detected & some & ~escaped & ~spoilt),
        ]
        with m.If(self.broken):
            m.d.sync += spoilt.eq(1)
        with m.If(self.strobe):
            m.d.sync += escaped.eq(self.data == ESCAPE)
        with m.If(plain):
            m.d.sync += held.eq(Cat(held[8:], crc.data))
            with m.If(waiting == CRC_BYTES):
                m.d.sync += some.eq(1)
            with m.Else():
                m.d.sync += waiting.eq(waiting + 1)
        with m.If(flag):
            m.d.sync += [waiting.eq(0), some.eq(0), spoilt.eq(0)]
        return m


class _PacketWriter(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(BYTE_OF_PACKET)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=8).create()
        place, passed = Signal(range(CRC_BYTES)), Signal()
        m.d.comb += crc.data.eq(self.i.payload.data)
        with m.FSM():
            with m.State("START"):
                m.d.comb += [self.o.valid.eq(self.i.valid), self.o.payload.eq(FLAG), crc.start.eq(1)]
                with m.If(self.i.valid & self.o.ready):
                    m.next = "BODY"
            with m.State("BODY"):
                self._stuff(m, self.i.payload.data, self.i.valid, passed)
                m.d.comb += [self.i.ready.eq(passed), crc.valid.eq(passed)]
                with m.If(passed & self.i.payload.last):
                    m.d.sync += place.eq(0)
                    m.next = "CHECKSUM"
            with m.State("CHECKSUM"):
                self._stuff(
                    m, Array(crc.crc[k : k + 8] for k in range(0, 8 * CRC_BYTES, 8))[place], Value.cast(1), passed
                )
                with m.If(passed):
                    m.d.sync += place.eq(place + 1)
                    with m.If(place == CRC_BYTES - 1):
                        m.next = "END"
            with m.State("END"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(FLAG)]
                with m.If(self.o.ready):
                    m.next = "START"
        return m

    def _stuff(self, m: Module, byte: Value, valid: Value, passed: Signal) -> None:
        """Offer a byte, or the two that stand for it; `passed` in the cycle in which it is gone."""
        special, escaped = Signal(), Signal()
        m.d.comb += [
            special.eq((byte == FLAG) | (byte == ESCAPE)),
            self.o.valid.eq(valid),
            self.o.payload.eq(Mux(special, Mux(escaped, byte ^ TURNED, ESCAPE), byte)),
            passed.eq(valid & self.o.ready & (~special | escaped)),
        ]
        with m.If(valid & self.o.ready):
            m.d.sync += escaped.eq(special & ~escaped)
