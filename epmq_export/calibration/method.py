"""The methods are settings of one quadratic (docs/method.md): the published ones by name, and numbers of a
user's own.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Method:
    name: str
    target: Literal["merged", "experts"]
    """Whose outputs each layer is to reproduce."""

    rounding: Literal["nearest", "gptq", "descent"]
    """descent: GPTQ, then `descent.descend` from its result."""

    alpha: float = 0.0
    """Share of the expert's own input in the target's input; 0 never runs an expert forward."""

    rho: float | Literal["auto"] = 1.0
    """Length of the anchor along base -> merged; 1 is the merged model, more overshoots it; "auto" is
    `anchor.anchor_rho`.
    """

    damping: float = 0.0
    """lambda: weight of the distance to the anchor, where every task's Hessian has Frobenius norm 1."""

    affine: Literal["kept", "solved"] = "kept"
    """Biases and norms: the merged model's, or solved on the same statistics."""

    def override(
        self, *, alpha: float | None, rho: float | Literal["auto"] | None, damping: float | None
    ) -> "Method":
        return replace(
            self,
            alpha=self.alpha if alpha is None else alpha,
            rho=self.rho if rho is None else rho,
            damping=self.damping if damping is None else damping,
        )


# ModelSet: GPTQ arXiv 2210.17323; RegMean 2212.09849; E-PMQ 2605.16882, its equations as we derive them;
# FeatCal 2605.13030.
PRESETS = {
    method.name: method
    for method in (
        Method("rtn", "merged", "nearest"),
        Method("gptq", "merged", "gptq", damping=0.01),
        Method("regmean", "experts", "gptq", damping=1e-3),
        Method("epmq", "experts", "gptq", damping=0.05),
        Method("featcal", "experts", "gptq", alpha=0.3, rho=2.0, damping=0.05, affine="solved"),
        # Ours: FeatCal's solve with a longer anchor; it measures best (README).
        Method("anchored", "experts", "descent", alpha=0.5, rho="auto", damping=0.1, affine="solved"),
    )
}

# What a recipe that names no method gets: the preset that measures best.
DEFAULT_METHOD = "anchored"

# What `refine: true` stands for.
REFINE_STEPS = 300
