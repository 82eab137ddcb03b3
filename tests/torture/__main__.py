"""``make torture``: every campaign; their counts go into ``figures/faults.json``, and from there into the README."""

import argparse
import os
import sys
from pathlib import Path

import torch

from gradcam_gan.studies import paths
from gradcam_gan.training import files
from gradcam_gan.training.provenance import provenance
from torture import full_disk, kills, mutations, two_workflows

RESULTS = paths.FIGURES / "faults.json"


def main() -> int:
    """Run them; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

    found = {
        "kills": kills.campaign(options.kills, options.seed),
        "mutations": mutations.campaign(options.mutations, options.seed),
        "full_disk": full_disk.campaign(),
        "two_workflows": two_workflows.campaign(),
    }
    failures = [f"{name}: {words}" for name, counts in found.items() for words in counts["failures"]]
    for words in failures:
        print(words)
    files.write_json(options.output, {"seed": options.seed, **found, **provenance()})
    if options.output == RESULTS:
        # not before: what notebooks need may start threads, and then nothing may be forked
        from gradcam_gan.studies.workflow import faults_markdown, with_block

        paths.README.write_text(with_block(paths.README.read_text(), "faults", faults_markdown(RESULTS)))
    print(f"{options.output}: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
