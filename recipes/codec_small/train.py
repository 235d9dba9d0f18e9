"""Train the small codec: python -m recipes.codec_small.train DATA OUT [--config config.yaml] [--steps N].

First come the codes, in closed form (codebook_init.py). They stay as they are, so a model can be trained to predict them while
the decoder learns: in the first stage the pitch, in the second the sound by spectral distances, with the measured pitch
where both are voiced, in the third with discriminators too, which judge a random stretch of each example and are alone for the
first steps. With --predicted, a share of the examples is a voice's own speech with the codes that its acoustic model
predicts (recipes/blockwise_tts/predict.py). The state
of training is saved every so many steps and at the end as safetensors and JSON; starting again with the same OUT goes
on where it stopped, on the same examples. OUT/codec holds the codec itself, its decoder averaged over the steps.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.codec_small.codebook_init import fit_codes
from recipes.codec_small.data import Speech
from recipes.codec_small.losses import Discriminators, SpectralLoss
from recipes.common import ema
from recipes.common.checkpoint import save_tensors, select_prefix
from recipes.common.seeding import seed_step
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig

HERE = Path(__file__).parent
CLIP = 1.0  # norm of the gradient
REFINER = ".refiner."  # in the names of a refiner's weights


class Trainer:
    """The codec, its judges, their optimisers and the step they are at."""

    trained = "decoder"  # the part of the codec that learns

    def __init__(self, config: dict, data: Path, out: Path, predicted: Path | None = None) -> None:
        self.config, self.out, self.step = config, out, 0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(config["seed"])
        c = SmallCodecConfig.from_dict(config["codec"])
        self.codec = SmallCodec(c).to(self.device)
        self.judges = Discriminators(**config["discriminator"]).to(self.device)
        self.loss = SpectralLoss(c.sample_rate).to(self.device)
        segment = round(config["segment_s"] * c.sample_rate / c.frame_size) * c.frame_size
        self.data = Speech(data, "train", segment, config["seed"])
        self.predicted = (
            Speech(predicted, "train", segment, config["seed"], c.frame_size, c.n_codebooks)
            if predicted
            else None
        )
        if self.data.hop != c.hop:
            raise ValueError(
                f"the pitch was measured every {self.data.hop} samples; the codec's hop is {c.hop}"
            )
        self.codec.requires_grad_(False).get_submodule(self.trained).requires_grad_(True)
        self.average = ema.start(self.codec)
        self.modules = {"codec": self.codec, "judges": self.judges}
        self.optimisers = {
            name: torch.optim.AdamW(
                [p for p in module.parameters() if p.requires_grad],
                betas=(0.8, 0.99),
                weight_decay=1e-3,
            )
            for name, module in self.modules.items()
        }
        self.total = sum(s["steps"] for s in config["stages"].values())

    def fit(self) -> float:
        """Set the codes; returns the error that they leave in the log-mels."""
        error = fit_codes(self.codec, self.data, self.config["seed"])
        self.average.load_state_dict(self.codec.state_dict())
        return error

    def begin_with(self, tensors: dict[str, Tensor]) -> None:
        """Take over a codec, which need not have a refiner."""
        for network in (self.codec, self.average):
            fresh = {n: t for n, t in network.state_dict().items() if REFINER in n}
            network.load_state_dict({**fresh, **tensors})

    def begin(self) -> None:
        """Called once before the steps."""

    def stage(self) -> tuple[str, int]:
        """The stage that the next step falls into, and how many steps of it are done."""
        at = self.step
        for name, stage in self.config["stages"].items():
            if at < stage["steps"]:
                return name, at
            at -= stage["steps"]
        return name, stage["steps"]

    def train_step(self) -> dict[str, float]:
        """One step of the stage that it falls into; returns the losses."""
        config, (name, at) = self.config, self.stage()
        stage = config["stages"][name]
        left = 1 - at / stage["steps"]
        rate = stage["rate"] * min(
            1.0, (at + 1) / config["warmup"], max(left / config["decay"], 0.02)
        )
        self.optimisers["codec"].param_groups[0]["lr"] = rate
        self.optimisers["judges"].param_groups[0]["lr"] = config["judges_rate"]
        seed_step(config["seed"], self.step)
        x, pitch, codes = (t.to(self.device) for t in self._batch())
        report = (
            self._pitch(x, pitch, codes)
            if name == "pitch"
            else self._sound(x, pitch, codes, at if name == "adversarial" else None)
        )
        self.step += 1
        ema.update(self.average, self.codec, min(config["average"], self.step / (self.step + 10)))
        return {name: float(value.detach()) for name, value in report.items()}

    @torch.no_grad()
    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Audio (B, 1, samples), pitch (B, hops) and codes (B, levels, T): recordings, then predicted ones."""
        size = self.config["batch"]
        share = round(self.config["predicted_share"] * size) if self.predicted else 0
        parts = []
        if share < size:
            x, pitch = self.data.batch(self.step, size - share)
            parts.append((x, pitch, self.codec.encode(x.to(self.device)).cpu()))
        if share:
            parts.append(self.predicted.coded(self.step, share))
        return tuple(torch.cat(p) for p in zip(*parts))

    def _features(self, codes: Tensor, part: str) -> Tensor:
        """Features of fine frames from codes (B, levels, T)."""
        with torch.no_grad():
            blocks = self.codec.quantizer.decode(codes)
        with self._autocast():
            features = self.codec.decoder[part].step(blocks, self.codec.tails(part, len(codes)))
        return features.float()

    def _pitch(self, x: Tensor, pitch: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """A step: the pitch from the codes, `lookahead` fine frames late."""
        late, track = self.codec.config.lookahead, self.codec.decoder["pitch"]
        voicing, scores = track(self._features(codes, "pitch_features")[:, late:])
        report = dict(
            zip(
                ("voicing", "pitch"), track.loss(voicing, scores, pitch[:, : pitch.shape[1] - late])
            )
        )
        report["total"] = self._update("codec", report["voicing"] + report["pitch"])
        return report

    @torch.no_grad()
    def _found(self, codes: Tensor) -> Tensor:
        """The decoder's own pitch (B, hops - lookahead) of codes (B, levels, T)."""
        with self._autocast():
            return self.codec.pitch(self.codec.quantizer.decode(codes)).float()

    def _sound(
        self, x: Tensor, pitch: Tensor, codes: Tensor, judged: int | None
    ) -> dict[str, Tensor]:
        """A step: the sound, voiced where the decoder's own pitch is, so that the filters learn to live with its mistakes; the
        measured pitch there, so that the harmonics lie where the recording's do. judged: how many steps the
        discriminators have learnt, if they judge."""
        codec, c = self.codec, self.codec.config
        features = self._features(codes, "features")
        found = self._found(codes)
        count = found.shape[1]
        pitch = torch.where((found > 0) & (pitch[:, :count] > 0), pitch[:, :count], found)
        state, late = codec.init_decoder_state(len(x)), c.window - c.hop
        y = codec.decoder["output"].step(
            features[:, :count], pitch, state.frames, state.phase, codec.tails("output", len(x))
        )[0]
        return self.learn(y[:, None, late:], x[..., : count * c.hop - late], judged)

    def learn(self, y: Tensor, x: Tensor, judged: int | None) -> dict[str, Tensor]:
        """Update the decoder, and the judges if they judge, by sound y (B, 1, samples) that should have been x."""
        config, report = self.config, {}
        report["mel"], report["stft"] = self.loss(y, x)
        total = config["mel"] * report["mel"] + config["stft"] * report["stft"]
        if judged is None:
            report["total"] = self._update("codec", total)
            return report
        alone, part = config["judges_alone"], self._stretch(x.shape[-1])
        heard = y.detach().requires_grad_()
        with self._autocast():
            report["judges"], report["hinge"], report["features"] = self.judges.losses(
                heard[..., part], x[..., part]
            )
        if judged >= alone:
            opinion = (
                config["adversarial"] * report["hinge"] + config["features"] * report["features"]
            )
            share = config["judges_share"] * (min(1.0, judged / alone - 1) if alone else 1.0)
            gradient = balanced((total, y, 1 - share), (opinion, heard, share))
            self._update("codec", y, gradient)
        self._update("judges", report["judges"])
        return report

    def _stretch(self, count: int) -> slice:
        """What the judges hear of `count` samples: their cost is most of a step's."""
        size = min(round(self.config["judged_s"] * self.codec.config.sample_rate), count)
        start = int(torch.randint(count - size + 1, ()))
        return slice(start, start + size)

    def _autocast(self):
        return (
            torch.autocast(self.device, torch.bfloat16)
            if self.config["autocast"]
            else nullcontext()
        )

    def _update(self, name: str, loss: Tensor, gradient: Tensor | None = None) -> Tensor:
        module = self.modules[name]
        module.zero_grad(set_to_none=True)
        loss.backward(gradient)
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        self.optimisers[name].step()
        return loss

    def save(self) -> None:
        """Write the whole state of training, and the codec by itself. A broken-off save leaves the one before."""
        self.out.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{name}.{n}": t
            for name, module in self.modules.items()
            for n, t in module.state_dict().items()
        }
        for name, optimiser in self.optimisers.items():
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {
                    f"optimiser.{name}.{i}.{key}": torch.as_tensor(value)
                    for key, value in state.items()
                }
        tensors |= {f"average.{n}": t for n, t in self.average.state_dict().items()}
        tensors["step"] = torch.tensor(self.step)
        save_tensors(tensors, self.out / "training.safetensors")
        folder = self.out / "codec"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps(self.codec.config.to_dict(), indent=2) + "\n"
        )
        save_tensors(self.average.state_dict(), folder / "model.safetensors")

    def resume(self) -> bool:
        """Take up a saved state, if there is one."""
        file = self.out / "training.safetensors"
        if not file.is_file():
            return False
        tensors = load_file(file, device=self.device)
        for name, module in self.modules.items():
            module.load_state_dict(select_prefix(tensors, f"{name}."))
            state: dict[int, dict[str, Tensor]] = {}
            for n, t in tensors.items():
                if n.startswith(f"optimiser.{name}."):
                    i, key = n.removeprefix(f"optimiser.{name}.").split(".")
                    state.setdefault(int(i), {})[key] = t.cpu() if key == "step" else t
            optimiser = self.optimisers[name]
            optimiser.load_state_dict(
                {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
            )
        self.average.load_state_dict(select_prefix(tensors, "average."))
        self.step = int(tensors["step"])
        return True


def balanced(*losses: tuple[Tensor, Tensor, float]) -> Tensor:
    """The gradient that has so large a share of each loss's, whatever their sizes, from (loss, the sound that it is of, share):
    the balancer of EnCodec (Defossez et al., 2022, arXiv:2210.13438)."""
    total = torch.zeros_like(losses[0][1])
    for loss, y, share in losses:
        (gradient,) = torch.autograd.grad(loss, y, retain_graph=True)
        total += share * gradient / gradient.norm().clamp(min=1e-12)
    return total


def main(
    arguments: list[str] | None = None,
    kind: type[Trainer] = Trainer,
    config: Path = HERE / "config.yaml",
) -> Trainer:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="what prepare.py wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=config)
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="stop at this step (default: when all stages are done)",
    )
    parser.add_argument("--minutes", type=float, default=None, help="stop after so long")
    parser.add_argument(
        "--codec", type=Path, default=None, help="begin with this codec, and keep its codes"
    )
    parser.add_argument(
        "--predicted",
        type=Path,
        default=None,
        help="what recipes/blockwise_tts/predict.py wrote: codes as a voice's acoustic model predicts them",
    )
    args = parser.parse_args(arguments)
    trainer = kind(yaml.safe_load(args.config.read_text()), args.data, args.out, args.predicted)
    if trainer.resume():
        print(f"going on at step {trainer.step}", flush=True)
    elif args.codec:
        trainer.begin_with(load_file(args.codec / "model.safetensors", device=trainer.device))
    else:
        print(json.dumps({"logmel error of the codes": round(trainer.fit(), 4)}), flush=True)
        trainer.save()
    trainer.begin()
    trainer.codec.train()
    last, began = min(args.steps or trainer.total, trainer.total), time.monotonic()
    while trainer.step < last and (
        args.minutes is None or time.monotonic() - began < 60 * args.minutes
    ):
        report = trainer.train_step()
        if trainer.step % 50 == 0 or trainer.step == last:
            print(
                json.dumps(
                    {
                        "step": trainer.step,
                        "minutes": round((time.monotonic() - began) / 60, 2),
                        **{n: round(v, 4) for n, v in report.items()},
                    }
                ),
                flush=True,
            )
        if trainer.step % trainer.config["save_every"] == 0:
            trainer.save()
    trainer.save()
    return trainer


if __name__ == "__main__":
    main()
