"""One model, running: bundle, session, task and cache behind one thread-safe `answer`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeslm import providers, tasks
from edgeslm.adapters.ort import GraphError, make_session
from edgeslm.contract.manifest import Artifact
from edgeslm.contract.messages import ModelRef
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer, Provider, Request, Session, Task, Tensor
from edgeslm.runtime.bundle import Bundle, open_bundle
from edgeslm.runtime.cache import Cache
from edgeslm.runtime.device import Device, this_device
from edgeslm.runtime.golden import Verdicts, parse_golden, replay
from edgeslm.runtime.tokenizer import INPUTS, Tokenizer

Row = tuple[dict[str, Tensor], bool]  # outputs without the batch axis; truncated


class NoArtifactError(RejectedError):
    """The bundle holds no graph that this device can run; says why of each."""

    code = "bundle.no_artifact"


class Model:
    """A loaded bundle. `answer` may be called from any number of threads at once.

    Attributes:
        bundle: what was loaded.
        ref: name, version and hash, as results carry them.
        task: the manifest's task.
        provider: key of edgeslm/providers/ that runs the graph.
        node_share: share of the graph's nodes on it, in [0, 1].
        batch_invariant: a row's output does not depend on its batch.
    """

    def __init__(  # noqa: PLR0913 -- `load_model` puts the parts together
        self,
        bundle: Bundle,
        *,
        artifact: Artifact,
        session: Session,
        tokenizer: Tokenizer,
        task: Task,
        cache_entries: int,
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.ref: ModelRef = {
            "name": manifest.name,
            "version": manifest.version,
            "hash": bundle.hash,
        }
        self.task = manifest.task
        self.provider = session.provider
        self.node_share = session.node_share
        self.batch_invariant = artifact.batch_invariant
        self._session = session
        self._tokenizer = tokenizer
        self._prepare = task.prepare
        self._finish = task.finish
        self._cache: Cache[Row] = Cache(cache_entries)

    @property
    def cache_hits(self) -> int:
        """Answers whose model output was kept from before."""
        return self._cache.hits

    @property
    def cache_misses(self) -> int:
        """Inferences."""
        return self._cache.misses

    def answer(self, request: Request) -> Answer:
        """Return what the model says of `request`: a pure function of its text and source.

        Raises:
            InferenceError: the provider failed on this text.
        """
        prepared = self._prepare(request)
        if prepared.model_text is None:
            return self._finish(prepared, None, truncated=False)
        outputs, truncated = self._cache.get(prepared.model_text, self._infer)
        return self._finish(prepared, outputs, truncated=truncated)

    def tokens(self, request: Request) -> int:
        """Return how many tokens the model reads to answer `request`; 0 where it is not asked."""
        text = self._prepare(request).model_text
        return 0 if text is None else self._tokenizer.encode(text)[0]["input_ids"].shape[1]

    def forget(self) -> None:
        """Empty the cache and its counts."""
        self._cache.clear()

    def _infer(self, text: str) -> Row:
        tensors, truncated = self._tokenizer.encode(text)
        feeds = {name: tensors[name] for name in self._session.inputs}
        return _first_row(self._session.run(feeds)), truncated


def load_model(
    bundle: Path,
    *,
    profile: DeviceProfile | None = None,
    cache_entries: int = 4096,
    verdict_dir: Path | None = None,
    golden: bool = True,
) -> Model:
    """Verify the bundle in folder `bundle`, open it on this device and replay its golden file.

    Args:
        bundle: the folder.
        profile: restricts the choice of provider to the profile's; by default any will do.
        cache_entries: model outputs kept; 0 switches the cache off.
        verdict_dir: remembers there that the golden file passed, so that the next start need
            not replay it.
        golden: replay it. Only the exporter, which is about to write it, does not.

    Raises:
        BundleMissingError, BundleInvalidError, BundleForeignError, BundleTamperedError: see
            `open_bundle`.
        UnknownTaskError, NoArtifactError, TokenizerError, GraphError: what it needs is not here,
            or one of its files is not what it should be.
        InvalidFileError: its parameters are not those of its task.
        GoldenInvalidError, GoldenFailedError: see edgeslm/runtime/golden.py.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    device = this_device()
    make_task = tasks.load(manifest.task)
    artifact, provider = choose_artifact(opened, device=device, profile=profile)
    cases = parse_golden(opened.read("golden")) if golden else []
    task = make_task(opened.read("parameters"))
    tokenizer = Tokenizer(opened.read("tokenizer"), max_tokens=manifest.max_tokens)
    session = make_session(opened.path / artifact.path, options=provider.options())
    if unknown := sorted(set(session.inputs) - set(INPUTS)):
        msg = f"{artifact.path}: takes {', '.join(unknown)}; known are {', '.join(INPUTS)}"
        raise GraphError(msg)
    model = Model(
        opened,
        artifact=artifact,
        session=session,
        tokenizer=tokenizer,
        task=task,
        cache_entries=cache_entries,
    )
    verdicts = Verdicts(
        verdict_dir, device=device, runtime=f"{session.provider} {provider.runtime()}"
    )
    if cases and not verdicts.passed(opened.hash):
        replay(cases, model.answer, manifest.tolerance)
        verdicts.remember(opened.hash)
        model.forget()
    return model


def choose_artifact(
    bundle: Bundle, *, device: Device, profile: DeviceProfile | None
) -> tuple[Artifact, Provider]:
    """Return the first graph in the manifest that this device can run, and its provider.

    With a profile: the first in the order of its providers.

    Raises:
        NoArtifactError: none; says why of each.
    """
    graphs = bundle.artifacts("graph")
    if profile is not None:
        order = profile.providers
        graphs = sorted(
            (g for g in graphs if g.provider in {None, *order}),
            key=lambda g: order.index(g.provider) if g.provider in order else len(order),
        )
    reasons = []
    for graph in graphs:
        # A graph that names no provider is plain ONNX, which the CPU always takes.
        key = graph.provider or "cpu"
        provider = providers.load(key)
        if provider is None:
            reasons.append(f"{graph.path}: this build has no provider {key!r}")
        elif problem := _problem(graph, provider, device):
            reasons.append(f"{graph.path}: {problem}")
        else:
            return graph, provider
    allowed = f" for the providers of profile {profile.name}" if profile is not None else ""
    msg = (
        f"{bundle.path}: no graph{allowed} that this device can run: "
        f"{'; '.join(reasons) or 'none is offered'}. Export it for this device's profile."
    )
    raise NoArtifactError(msg)


def _problem(graph: Artifact, provider: Provider, device: Device) -> str | None:
    runtime = graph.requires.runtime
    if lacking := device.lacks(graph.requires):
        return lacking
    if missing := provider.problem():
        return missing
    have = provider.runtime()
    if runtime is not None and not f"{have}.".startswith(f"{runtime}."):
        return f"needs runtime {runtime}, this is {have}"
    return None


def _first_row(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the batch axis; read-only, since the cache hands the same arrays to every caller.

    Copies: a view would keep the whole output, and an object more, for each entry of the cache.
    """
    rows = {}
    for name, value in outputs.items():
        row = value[0, ...].copy()
        row.setflags(write=False)
        rows[name] = row
    return rows
