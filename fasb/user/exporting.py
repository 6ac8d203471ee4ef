"""A bundle's edit for other programs: control vectors of llama.cpp and repeng, which are one file.

In: a bundle whose edit adds vectors to the residual stream. Out: a GGUF file, one vector per layer.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fasb.errors import BundleError, ModelError
from fasb.steering.bundle import Bundle
from fasb.steering.operations import Add
from fasb.wholefiles import writing


def export(bundle: Bundle, path: Path) -> None:
    """Write the edit as a control vector, scaled so that 1 is the bundle's alpha.

    Those programs add the vectors at every token: tracker, policy and positions stay behind.

    Raises:
        BundleError: it does not steer, or the edit is not an addition to the residual stream
            behind the first layer.
        ModelError: the package gguf is missing.
        ArtifactError: the file cannot be written.
    """
    vectors = directions(bundle)
    try:
        import gguf
    except ImportError:
        raise ModelError("export: needs the package gguf; run 'pip install fasb[gguf]'") from None
    with writing(path) as part:
        writer = gguf.GGUFWriter(part, "controlvector")
        hint = bundle.fingerprint.model if bundle.fingerprint is not None else ""
        writer.add_string("controlvector.model_hint", hint)
        writer.add_uint32("controlvector.layer_count", len(vectors))
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", vector)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def directions(bundle: Bundle) -> dict[int, Float32[np.ndarray, " hidden"]]:
    """Return what is added to each layer's output, at the bundle's alpha.

    Raises:
        BundleError: it does not steer, or the edit is not an addition to the residual stream
            behind the first layer.
    """
    if bundle.edit is not None and (bundle.policy.when == "never" or bundle.policy.alpha == 0):
        raise BundleError(
            "export: the bundle does not steer (when: never, or alpha 0), but a control vector "
            "would; export one that does"
        )
    found: dict[int, Float32[np.ndarray, " hidden"]] = {}
    for change in bundle.edit.changes if bundle.edit is not None else ():
        if change.site != "residual" or not isinstance(change.operation, Add):
            kind = type(change.operation).__name__.lower()
            raise BundleError(
                f"export: the edit is '{kind}' at {change.site}, but a control vector is an "
                "addition to the residual stream; export a bundle of such an edit"
            )
        for (layer, _), vector in zip(change.at.tolist(), change.operation.vector, strict=True):
            scaled = (bundle.policy.alpha * vector).to("cpu").float().numpy()
            # several changes of one layer add up, as they do in a pass
            found[layer] = found.get(layer, np.float32(0)) + scaled
            if not np.isfinite(found[layer]).all():
                raise BundleError(
                    f"export: what is added to layer {layer} at alpha {bundle.policy.alpha:g} is "
                    "not finite in float32; export a bundle of a lower one"
                )
    if not found:
        raise BundleError("export: the bundle has no edit; fit one")
    if 0 in found:
        raise BundleError(
            "export: the edit is behind layer 0 too, where llama.cpp has no control vector; "
            "choose later layers"
        )
    return dict(sorted(found.items()))
