"""Print the flags that make XLA compile fast, those that this version knows."""

import os
import subprocess
import sys

FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    # Halves the time to compile a sampler.
    "--xla_cpu_use_fusion_emitters=false",
]


def is_known(flag):
    command = [sys.executable, "-c", "import jax; jax.devices('cpu')"]
    env = {**os.environ, "XLA_FLAGS": flag}
    return not subprocess.run(command, env=env, capture_output=True, check=False).returncode


if __name__ == "__main__":
    print(*filter(is_known, FLAGS))
