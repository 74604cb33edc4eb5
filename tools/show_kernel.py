"""Print the Triton or CUDA source that a program becomes, and what it takes on a device.

    python tools/show_kernel.py "<program>" [--open z] [--second] [--cuda] [--arch 90]

`--open` names slots (x, y, w, z; b of a program whose weights come from a table, of which w has no sweep); `--second`
shows their derivative along all inputs. With `--arch` the kernel is
compiled for that compute capability, no device needed: registers, spilled bytes, shared memory. `--cuda` shows what is
emitted for csrc/cuda.
"""

from __future__ import annotations

import argparse

import torch

from equikern.backends.gpu.launch import kernels
from equikern.backends.gpu.sweep import HB, HW, HX, B
from equikern.program import parse, untabled
from equikern.program.program import W, Z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="a program's text, print(layer.program)")
    parser.add_argument("--open", default="z", help="letters of slots: x, y, w, z, b")
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--arch", type=int)
    given = parser.parse_args()
    program = parse(given.program)
    text, offsets, factors = program.text, (), []
    if program.family == "table":
        text, offsets, factors = untabled(text).text, program.operands[W].offsets, [B, HB] if given.second else [B]
    slots = tuple(sorted(B if letter == "b" else "xywz".index(letter) for letter in given.open))
    there = [*range((HW if offsets else HW + 1) if given.second else HX), *factors]
    asked = text, slots, tuple(there), given.second, True, Z, offsets
    if given.cuda:
        from equikern.backends.cuda.launch import maker

        source = kernels(maker(torch.float32), *asked).source
    else:
        from equikern.backends.triton import emit
        from equikern.backends.triton.launch import TritonKernels

        made = kernels(TritonKernels, *asked)
        source = emit.sweep_source(made.sweep)
    print(source)
    if given.arch and given.cuda:
        from equikern.backends.cuda.resources import resources

        print(f"// sm_{given.arch}: {resources(source, given.arch)}")
    elif given.arch:
        from equikern.backends.triton.resources import sweep_resources

        print(f"# sm_{given.arch}: {sweep_resources(made, given.arch)}")


if __name__ == "__main__":
    main()
