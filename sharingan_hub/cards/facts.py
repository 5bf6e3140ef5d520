"""What a folder says of its model, for the card: read strictly, for it may be a stranger's."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharingan_hub.cards.edits import TAG
from sharingan_hub.cards.safe_text import plain_code, plain_text, safe_card

EMBEDDED = Path(__file__).parents[1] / "embedded"
FEW = 100  # pictures, at most, that a few-shot model was adapted to
# Settings that say where a run was, not what it did.
PLACES = ("output_dir", "resume_from", "report_to", "push_to_hub", "hub_", "threads", "checkpoint", "sample_every")


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository on the Hub: "user/name"."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and name.isascii()


def told_name(name: str) -> str:
    """What others are told of a model or data set: a Hub id or emblems:NAME itself, of a folder or file its last part.

    The models inside the package keep "sharingan_hub/embedded/...", under which they are found everywhere.
    """
    parts = re.split(r"[/\\]+", name.rstrip("/\\"))
    here = os.path.exists(os.path.expanduser(name))
    if here:
        path = Path(name).expanduser().resolve()
        parts = [*path.parts[-3:]]
    if parts[-3:-1] == ["sharingan_hub", "embedded"]:
        return "/".join(parts[-3:])
    return name if name.startswith("emblems:") or (is_hub_id(name) and not here) else parts[-1]


def public_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report.json without the paths of the machine that made it; those relative to the checkout stay."""

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: public(item) for key, item in value.items()}
        if isinstance(value, list):
            return [public(item) for item in value]
        if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~") or "\\" in value):
            return told_name(value)
        return value

    return {key: public(value) for key, value in report.items()}


FAMILIES = {  # a generator's tag
    "CoGANGenerator": "cogan",
    "DCGANGenerator": "dcgan",
    "R3GANGenerator": "r3gan",
    "StyleGAN2Generator": "stylegan2",
}


class Facts:
    """What a folder says of its model. Everything is a stranger's until it is a number, or has been through plain_text."""

    def __init__(self, folder: Path) -> None:
        from sharingan_hub.hub import CheckpointError

        self.folder = folder
        name = folder.resolve().name
        self.name = folder.resolve().parent.name if name == "adapter" else name
        self.report, self.adapter = self._json("report.json"), self._json("adapter_config.json")
        index = self._json("model_index.json")
        component = index.get("generator_model")
        if self.adapter:
            self.kind, self.model_class = "adapter", words(self.adapter.get("base_class"))
        elif isinstance(component, list) and len(component) == 2:
            self.kind, self.model_class = "pipeline", words(component[1])
        elif index:
            self.kind, self.model_class = "diffusion", words(index.get("_class_name"))
        else:
            raise CheckpointError(f"{name} is neither a checkpoint nor an adapter: it has no model_index.json")
        self.radial = self.model_class == "RadialGenerator"
        self.config = self._json("generator_model/config.json")
        recipe = self.report.get("recipe")
        self.recipe: dict[str, Any] = recipe if isinstance(recipe, dict) else {}
        self.base, self.base_id = self._told("base_model", self.adapter.get("base_model"))
        self.data, self.data_id = self._told("train_data", None)

    def _json(self, name: str) -> dict[str, Any]:
        from sharingan_hub.hub import CheckpointError, read_json

        try:
            return read_json(self.folder / name)
        except CheckpointError:
            return {}

    def _told(self, key: str, other: Any) -> tuple[str, str | None]:
        """Name of the base model or the data, for people, and its Hub id where it has one."""
        name = next((x for x in (self.report.get(key), other) if isinstance(x, str)), "")
        if not name and key not in self.report and isinstance(self.recipe.get(key), str):
            name = told_name(self.recipe[key])  # a report of an earlier version
        return plain_text(name, 100), name if is_hub_id(name) else None

    def number(self, *keys: str) -> float | None:
        """A finite number of the report."""
        value: Any = self.report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return number(value)

    def own_words(self, key: str) -> str:
        """Text that the model's maker put into the report for its card."""
        card = self.report.get("card")
        text = card.get(key) if isinstance(card, dict) else None
        if not isinstance(text, str):
            return ""
        return plain_text(text) if key == "title" else safe_card(text)

    def picture(self, name: str) -> str | None:
        """Path, within the folder, of a picture among the samples."""
        return f"samples/{name}" if (self.folder / "samples" / name).is_file() else None

    def last_samples(self) -> str | None:
        """The last grid that training wrote."""
        names = sorted(path.name for path in (self.folder / "samples").glob("step_????????.png"))
        return next((f"samples/{name}" for name in reversed(names) if re.fullmatch(r"step_\d+\.png", name)), None)

    @property
    def license(self) -> str:
        """Apache-2.0, as the project's own models are, unless the report says otherwise."""
        told = self.report.get("license")
        return told if isinstance(told, str) and re.fullmatch(r"[a-z0-9.-]{1,40}", told) else "apache-2.0"

    @property
    def converted(self) -> dict[str, Any] | None:
        """Which file of another program the weights are from; None where they are not."""
        found = self.report.get("converted")
        return found if isinstance(found, dict) else None

    @property
    def adapted(self) -> bool:
        """Whether it was trained on few pictures, from a model that was there."""
        pictures = self.number("pictures")
        few = pictures <= FEW if pictures is not None else bool(self.data) and not self.data.startswith("emblems:")
        return few and bool(self.base)

    @property
    def findable(self) -> bool:
        """Whether an adapter's base can be opened by what it is called."""
        return bool(self.base_id) or self.base.startswith("sharingan_hub/embedded/")

    def tags(self) -> Iterator[str]:
        if self.kind == "diffusion":  # our loader does not open it, so it is not to be found as ours
            yield from ("diffusers", "few-shot") if self.adapted else ("diffusers",)
            return
        yield from (TAG, "gan")
        if self.model_class in FAMILIES:
            yield FAMILIES[self.model_class]
        if self.adapted or self.kind == "adapter":
            yield "few-shot"
        if self.kind == "adapter":
            yield "adapter"
        if (self.folder / "ticket.safetensors").is_file():
            yield "lottery-ticket"

    @property
    def resolution(self) -> int | None:
        """Pixels that the generator draws where no size is asked for."""
        side = self.config.get("resolution")
        return side if type(side) is int and 1 <= side <= 2**16 else None

    def conditions(self) -> str:
        """Further arguments of a call that shows what the generator takes."""
        if self.radial:
            return ", order=3, output_size=1024"
        return ", class_label=0" if number(self.config.get("c_dim")) else ""

    def introduction(self) -> str:
        model, pictures = self.model_class or "generator", self.number("pictures")
        few = "a few" if pictures is None else f"{pictures:g}"
        taught = f", adapted to {few} picture{'' if pictures == 1 else 's'}" if self.adapted else ""
        if self.kind == "adapter":
            return f"What training changed in a {model}{taught}, and nothing else: a small file to lay over its base."
        if self.kind == "diffusion":
            return f"Eye emblems from a diffusion model, {model}{taught}: something to compare GANs with."
        shape = "n-fold symmetric by construction and crisp at any size, " if self.radial else ""
        if self.model_class == "CoGANGenerator":
            shape = "in pairs of two domains that correspond, "
        return f"Radial eye emblems, {shape}from a {model}{taught}."

    def making(self) -> Iterator[tuple[str, str]]:
        """Rows of the table: what it is, and what it took."""
        yield from self._parts()
        if self.converted is not None:
            file, digest = (" ".join(_codes([self.converted.get(key)])) for key in ("file", "sha256"))
            yield "converted from", f"{file}, written by {words(self.converted.get('program'), 100)}"
            yield "its SHA-256", digest
        pictures = self.number("pictures")
        if self.data:
            data = (
                f"[{self.data}](https://huggingface.co/datasets/{self.data_id})" if self.data_id else f"`{self.data}`"
            )
            drawn = ", emblems drawn as training went on" if self.data.startswith("emblems:") else ""
            yield "training data", data + drawn + (f", {pictures:,.0f} pictures" if pictures is not None else "")
        if self.base:
            link = f"[{self.base}](https://huggingface.co/{self.base_id})" if self.base_id else f"`{self.base}`"
            package = ", inside the `sharingan-hub` package" if self.base.startswith("sharingan_hub/embedded/") else ""
            yield "made from" if self.kind == "adapter" else "started from", link + package
        if self.recipe:
            yield from self._method()
        steps, batch, size = (
            self.number("steps"),
            self.number("recipe", "batch_size"),
            self.number("recipe", "resolution"),
        )
        if steps is not None:
            of = f" of {batch:g} pictures" if batch is not None else ""
            yield "steps", f"{steps:,.0f}{of}" + (f" at {size:g} px" if size is not None else "")
        seen = self.number("images")
        if seen is not None:
            yield "pictures seen", f"{seen:,.0f}" + self._before("images", "{:,.0f}")
        yield from self._cost()

    def _parts(self) -> Iterator[tuple[str, str]]:
        file = (
            "adapter.safetensors" if self.kind == "adapter" else "generator_model/diffusion_pytorch_model.safetensors"
        )
        count, size = _weights(self.folder / file)
        if self.kind == "adapter":
            if size is not None:
                yield "file", f"`{file}`, {size / 1000:,.0f} kB, the differences of the weights"
            error = self.number("adapter", "error")
            if error is not None:
                yield "left out", f"{error:.1e} of the change"
            yield "fits", f"the {self.model_class or 'generator'} that it was made from; another base is refused"
            return
        told = [self.model_class or "unknown"]
        if count is not None:
            told.append(f"{count / 1e6:.2f} M weights")
        masks, orders = (number(self.config.get(key)) for key in ("num_masks", "max_order"))
        if self.radial and masks is not None and orders is not None:
            told.append(f"{masks:g} soft masks and colours, orders 1 to {orders:g}")
        elif self.resolution is not None:
            told.append(f"{self.resolution} px")
        yield "generator" if self.kind == "pipeline" else "pipeline", ", ".join(told)
        judge = words(self._json("discriminator/config.json").get("_class_name"))
        if judge:
            yield "discriminator", f"{judge}, in `discriminator/`"
        sparsity = self.number("sparsity")
        if sparsity is not None and (self.folder / "ticket.safetensors").is_file():
            size = (self.folder / "ticket.safetensors").stat().st_size
            kept = f"{sparsity:.1%} of the weights that may be pruned are zero"
            yield "lottery ticket", f"{kept}; `ticket.safetensors`, {size / 1000:,.0f} kB, holds the others"

    def _method(self) -> Iterator[tuple[str, str]]:
        loss = [*_codes([self.recipe.get("objective")]), *_codes(self.recipe.get("regularizers"))]
        if loss:
            yield "loss", ", ".join(loss)
        if words(self.recipe.get("augment")) not in ("", "none"):
            yield (
                "augmentation",
                ": ".join(
                    [words(self.recipe["augment"]), ", ".join(_codes(self.recipe.get("augmentations")))]
                ).removesuffix(": "),
            )
        for key, label in (("freeze_generator", "not trained"), ("train_only", "trained alone")):
            names = _codes(self.recipe.get(key))
            if names:
                yield label, ", ".join(names)

    def _cost(self) -> Iterator[tuple[str, str]]:
        minutes, processes = self.number("minutes"), self.number("processes")
        if minutes is not None:
            split = f", in {processes:g} processes" if processes is not None and processes > 1 else ""
            yield "time", _minutes(minutes) + split + self._before("minutes", "{:.0f} minutes")
        hardware = self.report.get("hardware")
        if isinstance(hardware, dict) and words(hardware.get("name")):
            count, unit = number(hardware.get("count")), "core" if hardware.get("kind") == "cpu" else "device"
            of = f", {count:g} {unit}{'' if count == 1 else 's'}" if count is not None else ""
            yield "hardware", words(hardware["name"]) + of
        energy, how = self.number("energy_wh"), words(self.report.get("energy_estimate"), 200)
        if energy is not None:
            yield "energy", f"about {_rounded(energy)} Wh, an estimate" + (f": {how}" if how else "")
        versions = self.report.get("versions")
        if isinstance(versions, dict):
            pairs = [f"{words(name)} {words(version)}" for name, version in list(versions.items())[:10]]
            yield "software", ", ".join(pairs)

    def _before(self, key: str, form: str) -> str:
        value = self.number("before", key)
        return "" if value is None else f"; {form.format(value)} before that, by the models that it started from"

    def recipe_yaml(self) -> str:
        """The recipe's settings as YAML that cannot leave its fence."""
        from huggingface_hub.utils import yaml_dump

        names = {"train_data": self.data, "base_model": self.base, "train_data_b": self._told("train_data_b", None)[0]}
        kept = {
            key: names.get(key, value)
            for key, value in self.recipe.items()
            if not key.startswith(PLACES) and value is not None and names.get(key, value) != ""
        }
        return yaml_dump(_clean(kept), sort_keys=False).strip() if kept else ""

    def limits(self) -> Iterator[str]:
        if self.own_words("limits"):
            yield self.own_words("limits")
        if self.license == "other":
            yield (
                "The licence of the project's code does not extend to these weights: they keep that of the checkpoint that they "
                "were converted from, which its file does not name. NVIDIA's own checkpoints are for non-commercial use only. "
                "Look the licence up before you share or use them."
            )
        pictures = self.number("pictures")
        if self.adapted and pictures is not None:
            yield f"Small: {pictures:g} pictures teach a style, not a world."
        probs = self.config.get("order_probs")
        if self.radial and isinstance(probs, list) and len(probs) <= 64:
            absent = [f"{order}" for order, share in enumerate(probs, 1) if share == 0]
            if 0 < len(absent) < len(probs):
                names = f"Order {absent[0]} is" if len(absent) == 1 else f"Orders {_listed(absent)} are"
                yield f"{names} not among the training pictures; asked for, they come as the model knew them before."
        if self.kind == "adapter":
            yield "Half a weight is a blend of colours as much as of designs."
        elif self.kind == "pipeline":
            yield "Truncation values above 1 give stranger pictures."


def number(value: Any) -> float | None:
    """A finite number of reasonable size, as it was; None for anything else."""
    ordinary = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
    return value if ordinary else None


def words(value: Any, limit: int = 80) -> str:
    """A text as plain words of at most `limit` characters; empty for anything else."""
    return plain_text(value, limit) if isinstance(value, str) else ""


def _codes(values: Any) -> list[str]:
    """The words of a list as code that may stand in a table."""
    if not isinstance(values, list):
        return []
    texts = [plain_code(value, 80).replace("|", "\\|") for value in values[:64] if isinstance(value, str)]
    return [f"`{text}`" for text in texts if text]


def _clean(value: Any, depth: int = 0) -> Any:
    """A value of JSON with all texts plain, and none of it deep or long."""
    if isinstance(value, dict) and depth < 4:
        return {plain_code(key): _clean(item, depth + 1) for key, item in list(value.items())[:200]}
    if isinstance(value, list) and depth < 4:
        return [_clean(item, depth + 1) for item in value[:200]]
    if isinstance(value, bool) or value is None:
        return value
    return plain_code(value) if isinstance(value, str) else number(value)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]).removeprefix(" and ")


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _minutes(minutes: float) -> str:
    rounded = _rounded(minutes)
    return f"{rounded} minute{'' if rounded == '1' else 's'}"


def _weights(path: Path) -> tuple[int | None, int | None]:
    """How many numbers a safetensors file holds, by its header, and how many bytes it has."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
        return count, path.stat().st_size
    except (SafetensorError, OSError):
        return None, None
