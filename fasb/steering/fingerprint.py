"""What must agree between a bundle and the model it is attached to. Knows neither."""

from dataclasses import asdict, dataclass

from fasb.errors import BundleError

REMEDIES = {
    "model": "pass siblings=True if the models are siblings",
    "revision": "load the model with revision {!r}",
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must agree between a bundle and a model.

    `tokenizer`: hash of the vocabulary. `revision`: commit of the hub; empty, and not compared, for
    a local folder.
    """

    model: str
    n_layers: int
    n_heads: int
    head_dim: int
    tokenizer: str
    revision: str = ""

    def check(self, other: "Fingerprint", siblings: bool = False, what: str = "bundle") -> None:
        """Refuse another model than the one that `what` was made for.

        `siblings` allows another name (a base model and its chat version).

        Raises:
            BundleError: naming the first field that differs.
        """
        for field, mine in asdict(self).items():
            theirs = getattr(other, field)
            ignored = (siblings and field in ("model", "revision")) or (
                field == "revision" and "" in (mine, theirs)
            )
            if mine != theirs and not ignored:
                remedy = REMEDIES.get(field, "fit one for it").format(mine)
                raise BundleError(
                    f"{what}: made for {field} {mine!r}, but the model has {theirs!r}; {remedy}"
                )
