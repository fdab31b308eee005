from pathlib import Path

import pytest
import yaml

from sttn_ray.config import (
    Experiment,
    apply_override,
    known_keys,
    load_experiment,
    to_yaml,
)
from sttn_ray.errors import ConfigError
from sttn_ray.program import describe_sections, parse_command_line

CONFIGS = Path(__file__).parents[2] / "configs"
# Every key is a promise to users: adding, renaming or removing one is a decision, made here too.
KEYS = {
    "run.device",
    "inpaint.max_error_fraction",
    "inpaint.max_hours",
    "inpaint.preview",
    "inpaint.on_damage",
    "inpaint.interlaced",
    "run.num_actors",
    "run.actor_cpus",
    "run.gpus_per_actor",
    "run.autoscaling",
    "run.log_interval_s",
    "run.dir",
    "run.seed",
    "corpus.root",
    "corpus.frames_fps",
    "corpus.validation_share",
    "corpus.include",
    "corpus.manifest",
    "corpus.max_error_fraction",
    "shards.dir",
    "shards.width",
    "shards.height",
    "shards.fit",
    "shards.codec",
    "shards.quality",
    "shards.clip_frames",
    "shards.min_clip_frames",
    "shards.clips_per_shard",
    "shards.masks_per_family",
    "masks.moving_shape",
    "masks.static_shape",
    "masks.strip",
    "masks.box",
    "masks.text",
    "masks.object",
    "model.preset",
    "model.mask_keys",
    "model.initialization",
    "train.num_steps",
    "train.batch_size",
    "train.sample_frames",
    "train.learning_rate",
    "train.decay_at",
    "train.beta1",
    "train.beta2",
    "train.hole_weight",
    "train.valid_weight",
    "storage.endpoint_url",
    "storage.cache_dir",
    "storage.cache_gb",
    "train.adversarial_weight",
    "train.adversarial_loss",
    "train.num_workers",
    "train.ema_decay",
    "train.color_jitter",
    "train.crop_width",
    "train.crop_height",
    "train.worker_cpus",
    "train.min_workers",
    "train.start_from",
    "train.precision",
    "train.compile",
    "train.clips_at_once",
    "train.max_gradient_norm",
    "train.validation_interval",
    "train.validation_clips",
    "train.loader_processes",
    "train.log_interval",
    "train.checkpoint_interval",
    "train.num_checkpoints",
    "tune.space",
    "tune.metric",
    "tune.num_trials",
    "tune.search",
    "tune.scheduler",
    "tune.interval",
    "tune.reduction_factor",
    "tune.max_concurrent",
    "inpaint.video",
    "inpaint.mask",
    "inpaint.boxes",
    "inpaint.catalog",
    "inpaint.output",
    "inpaint.checkpoint",
    "inpaint.dilation_px",
    "inpaint.feather_px",
    "inpaint.references",
    "inpaint.num_references",
    "inpaint.precision",
    "inpaint.segment_frames",
    "inpaint.require_hole",
    "encode.alpha",
    "encode.codec",
    "encode.crf",
    "encode.preset",
    "encode.sound",
    "encode.threads",
    "demo.output",
    "demo.media",
}


def faults(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_experiment(words)
    return str(raised.value).splitlines()


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_keys_are_those_agreed():
    assert set(known_keys()) == KEYS
    assert len(known_keys()) == len(KEYS)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_load(path: Path):
    shipped = yaml.safe_load(path.read_text())
    experiment = load_experiment([str(path)])
    for section, values in shipped.items():
        for key, value in (values or {}).items():
            found = getattr(getattr(experiment, section), key)
            assert (list(found) if isinstance(found, tuple) else found) == value


def test_defaults_are_valid():
    assert load_experiment([]) == Experiment()
    assert Experiment.model_validate(Experiment().model_dump()) == Experiment()


def test_words_are_read_by_the_keys_type():
    experiment = load_experiment(
        ["encode.crf=20", "inpaint.require_hole=true", "run.log_interval_s=2.5", "inpaint.video=a=b.mp4"]
    )
    assert experiment.encode.crf == 20
    assert experiment.inpaint.require_hole is True
    assert experiment.run.log_interval_s == 2.5
    assert experiment.inpaint.video == "a=b.mp4"


def test_file_then_words_later_over_earlier(tmp_path: Path):
    first = write(tmp_path / "a.yaml", "encode: {crf: 20, preset: slow}\nrun: {actor_cpus: 3}\n")
    second = write(tmp_path / "b.yaml", "encode: {crf: 22}\ninpaint:\n")
    experiment = load_experiment([first, second, "encode.threads=2", "encode.threads=4"])
    assert (experiment.encode.crf, experiment.encode.preset, experiment.encode.threads) == (22, "slow", 4)
    assert experiment.run.actor_cpus == 3
    assert load_experiment(["encode.crf=30", first]).encode.crf == 20
    assert load_experiment([first, "encode.crf=30"]).encode.crf == 30


def test_lists_are_words_joined_by_commas(tmp_path: Path):
    path = write(tmp_path / "a.yaml", "train: {decay_at: [10, 20]}\n")
    assert load_experiment([path]).train.decay_at == (10, 20)
    assert load_experiment([path, "train.decay_at=5,6,7"]).train.decay_at == (5, 6, 7)
    assert load_experiment(["train.decay_at="]).train.decay_at == ()
    (fault,) = faults("train.decay_at=5,soon")
    assert fault.startswith("train.decay_at=")


def test_none_clears_a_key(tmp_path: Path):
    path = write(tmp_path / "a.yaml", "run: {num_actors: 4}\ninpaint: {mask: m.png}\n")
    experiment = load_experiment([path, "run.num_actors=none", "inpaint.mask=null"])
    assert experiment.run.num_actors is None
    assert experiment.inpaint.mask is None


def test_override_changes_one_key_of_a_copy():
    experiment = load_experiment(["encode.crf=20"])
    changed = apply_override(experiment, "encode.preset=slow")
    assert (changed.encode.crf, changed.encode.preset) == (20, "slow")
    assert experiment.encode.preset == "fast"
    with pytest.raises(ConfigError, match=r"encode\.speed: no such setting"):
        apply_override(experiment, "encode.speed=1")


def test_sections_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Experiment().encode.crf = 3


def test_all_faults_at_once_with_their_path(tmp_path: Path):
    path = write(tmp_path / "a.yaml", "encode: {crf: 99}\n")
    found = faults(path, "run.num_actors=0", "inpaint.vidoe=x.mp4", "encode.codec=h264", "oops", "--fast", "b.yaml")
    assert sorted(found) == sorted(
        [
            "encode.crf=99: input should be less than or equal to 51",
            "run.num_actors=0: input should be greater than or equal to 1",
            "inpaint.vidoe: no such setting; did you mean inpaint.video?",
            "encode.codec=h264: input should be 'libx264', 'x264-lossless' or 'ffv1'",
            "oops: expected a .yaml file or section.key=value",
            "--fast: no such option; options are --help and --print-config",
            "b.yaml: no such file",
        ]
    )


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("inpaint.segment_frame=9", "inpaint.segment_frames"),
        ("encode.thread=9", "encode.threads"),
        ("inpait.video=a", "inpaint"),
        ("encoder.crf=9", "encode"),
    ],
)
def test_unknown_names_get_the_nearest(word: str, nearest: str):
    name = word.partition("=")[0]
    unknown = name if name.split(".")[0] in Experiment.model_fields else name.split(".")[0]
    assert faults(word) == [f"{unknown}: no such setting; did you mean {nearest}?"]


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("encode.crf=x", "encode.crf=x: input should be a valid integer"),
        ("inpaint.dilation_px=1.5", "inpaint.dilation_px=1.5: input should be a valid integer"),
        ("inpaint.require_hole=maybe", "inpaint.require_hole=maybe: input should be a valid boolean"),
        ("run.log_interval_s=inf", "run.log_interval_s=inf: input should be a finite number"),
        ("run.log_interval_s=0", "run.log_interval_s=0: input should be greater than 0"),
        ("inpaint=x", "inpaint=x: expected section.key=value"),
        ("inpaint.=x", "inpaint.=x: expected section.key=value"),
        (".video=x", ".video=x: expected section.key=value"),
    ],
)
def test_value_faults(word: str, fault: str):
    (found,) = faults(word)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("encode: [1]\n", "expected sections with keys below them"),
        ("- 1\n", "expected sections with keys below them"),
        ("crf: 3\n", "expected sections with keys below them"),
        ("encode: {crf: 3\n", "cannot be read as YAML"),
        ("encode:\n  crf: 3: 4\n", "cannot be read as YAML"),
        ("run: {dir: " + "[" * 5000 + "]" * 5000 + "}\n", "cannot be read as YAML: line 1 is nested more than 20 deep"),
        ("- " * 5000 + "a\n", "cannot be read as YAML: line 1 is nested more than 20 deep"),
        (f"run: {{seed: {'9' * 5000}}}\n", "cannot be read as YAML: line 1 holds an integer of more than 100 digits"),
        ("run:\n  seed: 1\n  dir: a\n  seed: 2\n", "cannot be read as YAML: seed is given 2 times, in lines 2, 4"),
        ("run: {seed: 1}\nencode: {crf: 1}\nrun: {dir: a}\n", "cannot be read as YAML: run is given 2 times"),
        ("run: {dir: 2020-99-99}\n", "cannot be read as YAML: month must be in 1..12"),
        ("run: {dir: !!bool maybe}\n", "cannot be read as YAML: 'maybe'"),
        ("run: {dir: !!timestamp soon}\n", "cannot be read as YAML"),
        ("run: &a {dir: *a}\n", "cannot be read as YAML: holds an alias (*) inside of what it stands for"),
        ("a: " + "x" * 200_000, "cannot be read as YAML: has more than 100000 characters"),
        (
            f"a: &a '{'x' * 9999}'\nb: [{','.join(['*a'] * 999)}]\n",
            "cannot be read as YAML: holds more than 10000 values",
        ),
    ],
)
def test_files_that_are_no_experiment(tmp_path: Path, text: str, fault: str):
    path = write(tmp_path / "a.yaml", text)
    (found,) = faults(path)
    assert found.startswith(f"{path}: {fault}")


@pytest.mark.parametrize("levels", [5, 9, 19])
def test_aliases_that_multiply(tmp_path: Path, levels: int):
    lines = ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels))]
    (fault,) = faults(write(tmp_path / "a.yaml", "\n".join(lines)))
    assert fault.endswith("cannot be read as YAML: holds more than 10000 values, with those that aliases (*) repeat")


@pytest.mark.parametrize("key", ["2020-01-01", "1", "null", "true"])
def test_keys_that_are_no_words(tmp_path: Path, key: str):
    (fault,) = faults(write(tmp_path / "a.yaml", f"{key}: {{a: 1}}\n"))
    assert "keys should be strings" in fault


def test_aliases_that_do_not(tmp_path: Path):
    path = write(tmp_path / "a.yaml", "run: &a {seed: 3}\nencode: {crf: &b 20, threads: *b}\nstorage: {}\n")
    assert load_experiment([path]).encode.threads == 20


def test_a_merged_key_may_be_given_another_value(tmp_path: Path):
    path = write(tmp_path / "a.yaml", "run: &a {seed: 3}\ntune: {<<: *a, seed: 4}\n")
    (fault,) = faults(path)
    assert fault.startswith("tune.seed: no such setting")


def test_values_that_are_wrong_are_not_said_in_full():
    (fault,) = faults(f"encode.crf={'9' * 100_000}")
    assert len(fault) < 400
    for word in (f"run.seed={2**63}", f"train.decay_at=5,{2**63}"):
        (fault,) = faults(word)
        assert fault.endswith("input should be less than 2**63")


@pytest.mark.parametrize("url", ["http://[x", "http://store:99999", "ftp://store", "store"])
def test_addresses_that_are_none(url: str):
    (fault,) = faults(f"storage.endpoint_url={url}")
    assert "expected http://host:port or https://host" in fault


def test_empty_file_is_all_defaults(tmp_path: Path):
    assert load_experiment([write(tmp_path / "a.yaml", "# nothing yet\n")]) == Experiment()


def test_printed_config_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["encode.crf=20", "inpaint.boxes=1,2,3%,4@0-5;6,7,8,9", "inpaint.video=a: #b.mp4", "run.num_actors=2"]
    with pytest.raises(SystemExit) as stopped:
        parse_command_line("doc", ["run"], [*words, "--print-config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert set(yaml.safe_load(printed)) == set(Experiment.model_fields)
    path = write(tmp_path / "config.yaml", printed)
    assert load_experiment([path]) == load_experiment(words)
    assert to_yaml(load_experiment([path])) == printed


def test_command_line_faults_end_with_status_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        parse_command_line("doc", ["run"], ["encode.crf=99", "encode.codecs=x"])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: encode.") for line in lines)


def test_command_line_gives_the_experiment():
    experiment = parse_command_line("doc", ["run"], ["encode.crf=20"])
    assert experiment == load_experiment(["encode.crf=20"])


def test_help_lists_every_key_with_its_meaning(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        parse_command_line("What it does.", list(Experiment.model_fields), ["encode.crf=99", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("What it does.\n")
    for key in KEYS:
        assert f"  {key}=  [" in text
    assert "encode.codec=  [libx264 | x264-lossless | ffv1; default libx264]" in text
    assert "run.num_actors=  [integer; default none]" in text
    assert "inpaint.require_hole=  [true or false; default false]" in text
    for section in Experiment.model_fields.values():
        for field in section.annotation.model_fields.values():
            assert field.description
            assert field.description in text


def test_help_of_some_sections_has_only_theirs():
    text = describe_sections(["encode"])
    assert "encode.crf=" in text
    assert "inpaint." not in text
