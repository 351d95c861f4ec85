"""FSDP2: every process holds a share of each weight (PyTorch's fully_shard, Zhao et al. 2023, arXiv 2304.11277)."""

from lightning.pytorch.strategies import ModelParallelStrategy


class FSDP2(ModelParallelStrategy):
    """Shards the weights over all processes; a checkpoint holds them whole, as those of one process do."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Share the weights out to all processes of all nodes."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()
