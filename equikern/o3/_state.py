"""State dicts of e3nn: the tensors of its compiled graphs are checked for their signs, then left out."""

from __future__ import annotations

import re
from typing import Any

import torch

from equikern.o3._wigner import wigner_3j

_COMPILED = "_compiled_main"
_3J = re.compile(r"_w3j_(\d+)_(\d+)_(\d+)$")


def check_and_drop_compiled(state_dict: dict[str, Any], prefix: str, unexpected: list[str], errors: list[str]) -> None:
    """Take e3nn's compiled entries out of `unexpected`; say in `errors` which 3j symbols are not ours."""
    compiled = [key for key in state_dict if key.startswith(prefix + _COMPILED)]
    unexpected[:] = [key for key in unexpected if key not in compiled]
    for key in compiled:
        match = _3J.search(key)
        if match is None:
            continue
        theirs = state_dict[key].detach().double().cpu()
        l1, l2, l3 = map(int, match.groups())
        ours = wigner_3j(l1, l2, l3, dtype=torch.float64, device="cpu")
        # 1e-2: wide enough for bfloat16, far below a change of sign.
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-2):
            errors.append(
                f"{key} is not the 3j symbol of e3nn 0.5 and later (e3nn 0.4 has some with the other sign): "
                "these weights would give other results here; load them into their own e3nn and accelerate that."
            )
