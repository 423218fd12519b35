"""The calibration methods as settings of one quadratic (docs/method.md): the published ones by name, with
numbers that a user may override.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Method:
    """The settings of a calibration method."""

    name: str
    target: Literal["merged", "experts"]
    """The model whose outputs each layer is to reproduce: the merged one, or each expert on its own task."""

    rounding: Literal["nearest", "gptq", "descent"]
    """How W* is rounded. "descent" is GPTQ and then `descent.descend` from its result."""

    alpha: float = 0.0
    """The share of the expert's own input in the input of the target. With 0 no expert ever runs."""

    rho: float | Literal["auto"] = 1.0
    """The length of the anchor along base -> merged. 1 is the merged model and more goes beyond it. "auto" is
    `anchor.anchor_rho`.
    """

    damping: float = 0.0
    """lambda: the weight of the distance to the anchor, where the Hessian of every task has Frobenius
    norm 1.
    """

    affine: Literal["kept", "solved"] = "kept"
    """Whether biases and norms stay those of the merged model, or are solved on the same statistics."""

    def override(
        self, *, alpha: float | None, rho: float | Literal["auto"] | None, damping: float | None
    ) -> "Method":
        """Return the method with the given numbers in place of its own. None keeps the method's own
        number.
        """
        return replace(
            self,
            alpha=self.alpha if alpha is None else alpha,
            rho=self.rho if rho is None else rho,
            damping=self.damping if damping is None else damping,
        )


# Sources: GPTQ arXiv 2210.17323; RegMean arXiv 2212.09849; E-PMQ arXiv 2605.16882, with its equations as
# docs/method.md derives them; FeatCal arXiv 2605.13030.
PRESETS = {
    method.name: method
    for method in (
        Method("rtn", target="merged", rounding="nearest"),
        Method("gptq", target="merged", rounding="gptq", damping=0.01),
        Method("regmean", target="experts", rounding="gptq", damping=1e-3),
        Method("epmq", target="experts", rounding="gptq", damping=0.05),
        Method(
            "featcal",
            target="experts",
            rounding="gptq",
            alpha=0.3,
            rho=2.0,
            damping=0.05,
            affine="solved",
        ),
        # This project's own: the solve of FeatCal with a longer anchor. It measures best (README).
        Method(
            "anchored",
            target="experts",
            rounding="descent",
            alpha=0.5,
            rho="auto",
            damping=0.1,
            affine="solved",
        ),
    )
}

# The preset of a recipe that names no method: the one that measures best.
DEFAULT_METHOD = "anchored"
