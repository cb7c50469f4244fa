"""`restore`: production comes back after a restart. The champion's model is deployed anew, and gets
its traffic when it is proved to be what was approved.

A new deployment has another time and other replicas than the one that was evaluated. What must be
the same: every byte of the model, the engine's settings and its build, all by the signed receipts
of the release. The verdict and the reviewers' words are looked at once more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from assay.engines.deployment import ray_serve
from assay.errors import AssayError, IntegrityError, Superseded, Unreachable, UsageError
from assay.flow.place.attention import News, tell
from assay.flow.release.proof import Proof, prove
from assay.flow.release.receipts import deployment_statement, receipt_store
from assay.flow.release.writer import Writer, reconcile, settle, weights_of, writing
from assay.records.releases.release import Champion
from assay.records.releases.restoration import Restoration, RestorationState
from assay.records.stages import DeploymentRecord, Slot
from assay.rules.release.restoring import accepted_deployment
from assay.settings import Settings
from assay.stages import deploy
from assay.stages.context import Work
from assay.store.ledger import Ledger

_RESTORER = "restorer"


def is_lost(settings: Settings, ledger: Ledger) -> bool:
    """Whether there is a champion whose slot does not hold what may have its traffic. Raises
    `Unreachable` where no cluster answers."""
    champion = ledger.champion()
    if champion is None:
        return False
    restoration = ledger.restorations.newest(champion.run, champion.since)
    if restoration is not None and restoration.state != "done":
        return True
    state = ray_serve.state(deploy.serve_api(settings), champion.slot)
    if state is None or state.status == "DEPLOY_FAILED":
        return True
    accepted = accepted_deployment(champion, restoration, ledger.releases.all())
    return accepted is not None and state.deployed_at != accepted


def restore(settings: Settings, *, say: Callable[[str], None], wait_s: float = 0.0) -> bool:
    """Brings the champion back where it is lost; returns whether that was to be done. Another
    process that does so already is waited for, `wait_s` at most.

    Raises `IntegrityError` or `NotApproved` where it may not come back, `StageFailed` where its
    engine does not start, and `UsageError` while another process restores it. It has no traffic
    then.
    """
    ledger = Ledger(settings.ledger_url)
    taken = UsageError("another process is bringing the champion back")
    with ledger.lock(_RESTORER, wait_s=wait_s, taken=taken):
        with writing(settings, ledger) as writer:
            if reconcile(writer, say=say) is not None:
                return False  # a promotion is under way, and its controller lives
        champion = ledger.champion()
        if champion is None or not is_lost(settings, ledger):
            return False
        it = _Restoring(settings, ledger, champion, say)
        try:
            it.bring_back()
        except (Unreachable, Superseded):
            raise  # nothing is known to be wrong with it: whoever comes next goes on
        except AssayError as error:
            it.give_up(str(error))
            raise type(error)(f"{champion.run} has no traffic: {error}") from error
    return True


@dataclass
class _Restoring:
    """One champion that is brought back."""

    settings: Settings
    ledger: Ledger
    champion: Champion
    say: Callable[[str], None]
    proof: Proof | None = field(default=None, init=False)

    def bring_back(self) -> None:
        """Proves, deploys, waits, and gives the traffic."""
        champion = self.champion
        self.say(f"bringing back {champion.run} in slot {champion.slot}")
        self.proof = prove(champion, self.settings, self.ledger)
        spec, model = self.proof.spec.serve, self.proof.model
        work = self._work(self.proof.engine.on_gpu)
        names = {"model_name": champion.model_name}
        started = None
        if self.ledger.restorations.is_held(champion):  # one that was cut off may be half way up
            started = deploy.standing(champion.slot, spec, model=model, work=work, **names)
        if started is None:
            started = deploy.start(self._slot(), spec, model=model, work=work, **names)
        deployment = deploy.wait(started, spec, model=model, work=work, **names)
        self._finish(self.proof, deployment)
        self.say(f"{champion.run} has its traffic again")

    def give_up(self, reason: str) -> None:
        """Writes down why the champion is not back, once; it has no traffic."""
        champion = self.champion
        newest = self.ledger.restorations.newest(champion.run, champion.since)
        with writing(self.settings, self.ledger) as writer:
            # Somebody has promoted another one meanwhile, whose traffic is none of this.
            if self.ledger.champion() != champion:
                return
            if newest is None or (newest.state, newest.note) != ("failed", reason):
                self._write(writer, "failed", note=reason)
                tell(News("held", champion.run, reason), self.settings)
            if self.ledger.releases.under_way() is None:
                writer.give(weights_of(None))

    @contextmanager
    def _slot(self) -> Iterator[Slot]:
        """The champion's slot, while Serve is told. Its traffic ends before anything changes."""
        with writing(self.settings, self.ledger) as writer:
            writer.verify()
            self._require_champion()
            if self.ledger.releases.under_way() is not None:
                raise Superseded("a promotion has begun meanwhile")
            self._write(writer, "begun")
            writer.give(weights_of(None))
            yield self.champion.slot

    def _finish(self, proof: Proof, deployment: DeploymentRecord) -> None:
        """Looks again at all that can change, keeps the receipt, and gives the traffic."""
        with writing(self.settings, self.ledger) as writer:
            writer.verify()
            self._require_champion()
            proof.check_words(self.ledger)
            state = self._state(deployment)
            statement = deployment_statement(
                self.champion, state, self.settings, engine=proof.engine, restores=proof.release
            )
            # Before the traffic: what serves can be proved at any moment.
            receipt_store(self.settings).write([statement])
            self._write(writer, "done", deployment=deployment)
            if self.ledger.releases.under_way() is None:
                settle(writer, say=lambda _: None)

    def _state(self, deployment: DeploymentRecord) -> ray_serve.SlotState:
        state = ray_serve.state(deploy.serve_api(self.settings), self.champion.slot)
        if state is None or state.deployed_at != deployment.deployed_at or not state.answers:
            raise Superseded("its slot was changed while it came up")
        loaded = ray_serve.loaded(self.settings.loaded_folder, state.replicas)
        said = set(map(loaded.get, state.replicas))
        if not state.replicas or said != {self.champion.artifact_digest}:
            raise IntegrityError("a replica has not loaded what was approved")
        if ray_serve.artifacts_said(state.url) != [self.champion.artifact_digest]:
            raise IntegrityError("its answers do not say that they are of what was approved")
        return state

    def _require_champion(self) -> None:
        if self.ledger.champion() != self.champion:
            raise Superseded("another champion has got the traffic meanwhile")

    def _write(
        self,
        writer: Writer,
        state: RestorationState,
        *,
        deployment: DeploymentRecord | None = None,
        note: str = "",
    ) -> None:
        restoration = Restoration(
            state=state,
            champion=self.champion,
            release=self.proof.release if self.proof else "",
            deployed_at=deployment.deployed_at if deployment else None,
            replicas=deployment.replicas if deployment else (),
            note=note,
        )
        self.ledger.restorations.add(restoration, fence=writer.number, actor=writer.actor)

    def _work(self, on_gpu: bool) -> Work:
        folder = self.settings.home / "restore"
        with suppress(FileNotFoundError):
            (folder / "progress.jsonl").unlink()
        return Work(self.settings, folder, folder / "progress.jsonl", folder, on_gpu=on_gpu)
