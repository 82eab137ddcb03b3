"""Tables that belong together: found once for one network or seed, kept in a folder, and put together over several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import pandas as pd
from filelock import FileLock

from gradcam_gan.training import files
from gradcam_gan.training.provenance import provenance


@dataclass(frozen=True)
class KeptTables:
    """What dataclasses have in common whose fields are all tables."""

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Those of several networks or seeds as one."""
        names = [field.name for field in fields(cls)]
        return cls(
            **{name: pd.concat([getattr(one, name) for one in parts], ignore_index=True) for name in names}
        )

    @classmethod
    def once(cls, path: Path, origin: Mapping[str, object], find: Callable[[], Self]) -> Self:
        """Read from a folder, where they were found before; else found now, and kept there.

        Args:
            path: of their folder, whose name has digits of ``files.digest(origin)``.
            origin: what they are made from, as JSON values; it is kept beside them.
            find: finds them.
        """
        names = [field.name for field in fields(cls)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_dir():
                found = find()
                with files.atomic_directory(path) as made:
                    for name in names:
                        getattr(found, name).to_csv(made / f"{name}.csv.gz", index=False)
                    files.write_json(made / "manifest.json", {"status": "complete", **origin, **provenance()})
        return cls(**{name: pd.read_csv(path / f"{name}.csv.gz") for name in names})
