"""Every published number of a profile by its id, in one file: ``figures/<profile>/ledger.json``.

The READMEs draw their numbers from it by id, and ``verify`` checks them. Four kinds of entry:

- ``numbers``: what is said in words, each with ``quantity``, ``value``, its 95 % interval ``low`` and ``high`` (null:
  none), ``n``, ``unit`` (of what n counts), ``tolerance`` and ``runs``;
- ``claims``: verdict, rule and sentence of each, whose number has the claim's name as its id, and how many networks
  are ``planned``;
- ``results``: the tables, of figures too. A number in one is known as ``<result>/<row>/<column>``; it is in the CSV, of
  which stand here SHA-256, ``rows``, count of ``numbers``, ``runs``, and the columns that hold ``times``, which no two
  executions share.
- ``archive``: the SHA-256 of each archived run.

``tolerance`` is the largest difference on the platform and with the threads that the number was made with: 0, for
there every training is the same to the last bit. Elsewhere intervals must overlap.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gradcam_gan.errors import InputError
from gradcam_gan.intervals import Interval
from gradcam_gan.scoring.scores import WITHOUT_VEIL
from gradcam_gan.studies.archive import checksums, tables_of
from gradcam_gan.studies.claims import ONE_SIDED, holm
from gradcam_gan.studies.epoch_heatmaps.rules import deciding, turned_claims
from gradcam_gan.studies.epoch_heatmaps.tables import Tables
from gradcam_gan.studies.results import read_manifests
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.train_dcgan import health_table
from gradcam_gan.training import files

NAME = "ledger.json"
TIMES = ("seconds", "images_per_second", "milliseconds", "milliseconds_low", "milliseconds_high")
CLAIM = ("text", "rule", "verdict", "sentence", "beside", "notebook", "planned")
OF_EARLIER_WORK = ("P5", "P6")  # whose networks have seeds of their own


def read_claims(folder: Path) -> pd.DataFrame:
    """The verdicts (``claims.ledger``) of all notebooks of a profile, with the ``notebook`` of each claim.

    ``p_holm`` is Holm's correction over the paper's own claims, C1 to C6, as far as they are there.

    Raises:
        InputError: there is none.
    """
    tables = [
        pd.read_csv(folder / f"{name}.csv").assign(notebook=notebook)
        for notebook, manifest in read_manifests(folder).items()
        for name in manifest["results"]
        if name.startswith("table_claims")
    ]
    if not tables:
        raise InputError(f"{folder} has no verdicts (table_claims*.csv); make figures makes them")
    found = pd.concat(tables, ignore_index=True).sort_values("claim", ignore_index=True)
    paper = found[found["claim"].str.startswith("C")].set_index("claim")["p"]
    return found.assign(p_holm=found["claim"].map(holm(dict(zip(paper.index, paper, strict=True)))))


def collect(folder: Path, study: Study) -> dict[str, Any]:
    """The ledger of a folder of figures, as JSON values.

    Args:
        folder: of a profile.
        study: the profile, which says how many networks are planned.

    Raises:
        InputError: it has no verdicts.
    """
    manifests, claims = read_manifests(folder), read_claims(folder)
    networks = sorted(path.stem for path in (folder / "networks").glob("*.json"))
    runs = {
        name: [*entry["runs"], *tables_of(notebook, manifest)]
        for notebook, manifest in manifests.items()
        for name, entry in manifest["results"].items()
    }
    if study.planned > 1:
        runs["table_claims"] = networks  # which are read from their tables
    numbers = _of_claims(folder, claims, runs) | dict(_of_explanations(folder, runs))
    planned = [
        study.planned_earlier if claim in OF_EARLIER_WORK else study.planned for claim in claims["claim"]
    ]
    over_networks: dict[str, Any] = {}
    if study.planned > 1:
        tables = Tables.published(folder)
        numbers |= {
            id_: _number(quantity, found, networks) for id_, (quantity, found) in deciding(tables).items()
        }
        trained = health_table(tables.scores).set_index("seed")
        over_networks["networks"] = {
            "healthy": trained.index[trained["healthy"]].tolist(),
            "unhealthy": trained.index[~trained["healthy"]].tolist(),
            "healthy_without_veil": trained.index[trained[f"healthy{WITHOUT_VEIL}"]].tolist(),
        }
        over_networks["turned_when_settled"] = turned_claims(tables)
    return _without_nan(
        {
            "profile": study.profile,
            "numbers": numbers,
            "claims": claims.assign(planned=planned).set_index("claim")[list(CLAIM)].to_dict("index"),
            "holds_after_holm": claims.loc[claims["p_holm"] < ONE_SIDED, "claim"].tolist(),
            **over_networks,
            "recommended": _recommended(folder),
            "archive": checksums(folder),
            "results": {
                name: {"notebook": notebook, **_result(folder / f"{name}.csv"), "runs": runs[name]}
                for notebook, manifest in manifests.items()
                for name in manifest["results"]
            },
        }
    )


def _of_claims(folder: Path, claims: pd.DataFrame, runs: dict[str, Any]) -> dict[str, Any]:
    """The number of each claim, with the trainings of the table that has its verdict."""
    of_claim = {
        claim: runs[name]
        for name in runs
        if name.startswith("table_claims")
        for claim in pd.read_csv(folder / f"{name}.csv")["claim"]
    }
    return {
        row["claim"]: _number(
            row["quantity"],
            Interval(row["estimate"], row["low"], row["high"], int(row["n"]), unit=row["unit"]),
            of_claim[row["claim"]],
        )
        for row in claims.to_dict("records")
    }


def write(folder: Path, study: Study) -> None:
    """Put the ledger into its folder. Arguments and errors as for ``collect``."""
    files.write_json(folder / NAME, collect(folder, study))


def read(folder: Path) -> dict[str, Any]:
    """The ledger of a profile's folder.

    Raises:
        InputError: there is none, or it is none.
    """
    try:
        return json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        raise InputError(f"{folder / NAME} is missing or is no ledger; make publish makes it") from None


def interval(ledger: dict[str, Any], id_: str) -> Interval:
    """A number as an interval, which says itself in words."""
    number = ledger["numbers"][id_]
    value, low, high = (math.nan if number[key] is None else number[key] for key in ("value", "low", "high"))
    return Interval(value, low, high, number["n"], unit=number["unit"])


def _number(quantity: str, found: Interval, runs: Sequence[str]) -> dict[str, Any]:
    return {
        "quantity": quantity,
        "value": found.estimate,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "unit": found.unit,
        "tolerance": 0,
        "runs": list(runs),
    }


def _result(path: Path) -> dict[str, Any]:
    """What is said of one CSV."""
    table = pd.read_csv(path)
    return {
        "rows": len(table),
        "numbers": int(table.select_dtypes("number").size),
        "times": [name for name in TIMES if name in table],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _of_explanations(folder: Path, runs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each method and layer (notebook 6): what the recommendation speaks of."""
    name = "table_explanations"
    if name not in runs:
        return
    quantities = {
        "energy": "share of the evidence in the planted marker",
        "randomised": "rank correlation with the map of the network with other weights",
        "gap": "gap of the logit between removing what it calls least and most important, in its SD",
    }
    for row in pd.read_csv(folder / f"{name}.csv").to_dict("records"):
        for measure, quantity in quantities.items():
            bounds = (row[f"{measure}_low"], row[f"{measure}_high"])
            found = Interval(row[measure], *bounds, n=0, unit="values")
            yield f"{measure}/{row['method']}/{row['layer']}", _number(quantity, found, runs[name])


def _recommended(folder: Path) -> list[Any]:
    """Rows of notebook 6's recommendation; none where it has not run."""
    path = folder / "table_recommendation.csv"
    return pd.read_csv(path).to_dict("records") if path.is_file() else []


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """JSON knows no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
