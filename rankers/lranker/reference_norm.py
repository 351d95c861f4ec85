"""ReferenceNorm: batch normalisation with the statistics of some rows of a batch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ReferenceNorm(nn.BatchNorm1d):
    """A BatchNorm1d that takes its training statistics from all rows after the first `num_own`.

    The first `num_own` rows are normalised with them too. So it does not matter how processes share these rows.

    Args:
        dim: Size H of a row.
    """

    num_own: int = 0

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Replace every BatchNorm1d of a module by a ReferenceNorm with its weights and statistics."""
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm1d:
                norm = cls(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm.train(child.training))
            else:
                cls.replace_in(child)

    def forward(self, input: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        """Normalise the rows."""
        if not self.training or not self.num_own:
            return super().forward(input)
        references = super().forward(input[self.num_own :])  # this also updates the running statistics
        variance, mean = torch.var_mean(input[self.num_own :].float(), dim=0, correction=0)
        own = (input[: self.num_own].float() - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            own = own * self.weight + self.bias
        return torch.cat([own.to(references.dtype), references])
