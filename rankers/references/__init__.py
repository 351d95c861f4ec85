"""What every ranker is compared with, without training."""
