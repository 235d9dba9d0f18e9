"""Fixtures that several folders share: the recordings, and a private sound server."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# Two workers on two cores: a torch or a onnxruntime of two threads in each would be four on two.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Exports take more of the suite than anything else, and most of an export is sympy on the lengths that are left open: it
# is a fifth quicker with sympy's cache unlimited and without torch's cache of shapes, and makes the same graphs.
os.environ.setdefault("SYMPY_CACHE_SIZE", "None")
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

import pytest

if importlib.util.find_spec("hypothesis"):  # tests of weights run without, on an emulated processor
    from hypothesis import settings

    # the same examples each time, on any machine
    settings.register_profile("suite", derandomize=True, deadline=None, database=None)
    settings.load_profile("suite")

# What takes more than a second or two of a shared core: a test, all tests of a module, or all of a folder.
ALL = "all"
SLOW: dict[str, str | tuple[str, ...]] = {
    "asr/test_snapshot.py": ALL,
    "asr/whisper/test_incremental.py": ("test_a_long_stream_holds_no_more_than_a_short_one",),
    "asr/test_hotwords.py": (
        "test_a_name_is_written_as_the_list_has_it",
        "test_of_a_grammar_nothing_else_comes_out",
    ),
    "tts/test_speaking.py": ("test_snapshots_and_forks_anywhere_change_nothing",),
    "text/test_written.py": (
        "test_what_is_not_pending_only_grows",
        "test_written_again_is_the_same",
        "test_spans_cover_all_words_once",
    ),
    "cli/test_microphone.py": (
        "test_speech_is_transcribed_live",
        "test_the_microphone_until_a_signal",
    ),
    "audio/test_sound_server.py": (
        "test_speaker_is_heard_to_the_end",
        "test_microphone_hears_what_is_played",
        "test_cancel_is_heard_as_silence",
    ),
    "recipes/test_train_ctc.py": (
        "test_a_bundle_with_another_head_is_else_the_same",
        "test_pieces_that_are_not_the_head_s_are_refused",
    ),
    "export/test_kyutai_export.py": ALL,
    "lm/test_generate.py": ("test_drafts_write_what_plain_greedy_writes",),
    "asr/test_endings.py": ALL,
    "asr/test_files.py": (
        "test_damaged_recordings_in_a_pool_keep_what_was_heard",
        "test_recordings_share_a_pool_where_that_is_faster",
        "test_the_embedded_model_hears_the_same_in_any_company",
        "test_who_closes_a_pool_of_recordings_stops_it",
    ),
    "asr/test_multichannel.py": (
        "test_a_split_call_is_what_its_channels_say_alone",
        "test_live_events_name_their_channel_and_do_not_depend_on_blocks",
    ),
    "asr/test_recognizer.py": (
        "test_any_type_gives_the_same_text",
        "test_both_engines_write_the_same",
        "test_readings_are_understood",
        "test_streams_are_independent",
        "test_the_tail_is_flushed",
        "test_two_sentences_with_a_pause",
        "test_words_have_their_times",
    ),
    "asr/test_kyutai.py": (
        "test_forks_rollbacks_and_snapshots_go_on_as_if_nothing_had_been",
        "test_unsynchronised_streams_in_a_pool_equal_each_alone",
    ),
    "recipes/test_speech_llm_recipe.py": ("test_a_run_becomes_a_bundle_that_runs",),
    "asr/test_speech_llm.py": (
        "test_a_stream_does_not_depend_on_its_blocks_and_only_grows",
        "test_forks_rollbacks_and_snapshots_go_on_as_if_nothing_had_been",
        "test_unsynchronised_streams_in_a_pool_equal_each_alone",
    ),
    "asr/test_voxtral.py": (
        "test_a_segment_that_grows_too_long_is_cut_whatever_the_blocks",
        "test_forks_rollbacks_and_snapshots_go_on_as_if_nothing_had_been",
        "test_unsynchronised_streams_of_any_delay_in_a_pool_equal_each_alone",
    ),
    "asr/test_qwen_asr.py": ALL,
    "asr/test_moonshine.py": ALL,
    "asr/test_omni_recognizer.py": (
        "test_streams_in_a_pool_equal_each_alone",
        "test_a_stream_is_the_file",
        "test_forks_and_snapshots_go_on_as_if_nothing_had_been",
    ),
    "duplex/test_omni_agent.py": ("test_any_pieces_of_sound_give_the_same_answer",),
    "duplex/test_spoken.py": (
        "test_a_turn_is_heard_while_it_lasts_and_answered_with_the_agents_own_sound",
        "test_of_an_interrupted_answer_it_remembers_what_was_heard",
        "test_where_it_fails_the_voice_apologises_and_the_turn_is_forgotten",
    ),
    "nn/test_omni.py": ("test_text_and_codes_are_those_of_the_reference",),
    "serve/test_realtime_spoken.py": ALL,
    "asr/whisper/test_timing.py": ("test_recordings_are_dated_as_forced_alignment_dates_them",),
    "audio/test_echo.py": (
        "test_a_device_that_loses_sound_is_followed",
        "test_a_headset_has_no_echo_and_the_user_passes",
        "test_an_echo_is_found_and_taken_away",
        "test_drift_is_measured",
        "test_the_user_is_heard_as_without_it",
    ),
    "audio/test_features.py": (
        "test_equals_librosa_on_speech",
        "test_filters_are_librosas",
    ),
    "audio/test_pitch.py": ("test_a_human_voice_against_pyin",),
    "audio/test_resample.py": ("test_a_sine_keeps_its_time_and_shape",),
    "audio/test_samples.py": ("test_a_torch_tensor_is_an_array",),
    "serve/test_abuse.py": (
        "test_fragments_are_joined_as_they_come",
        "test_others_are_unharmed",
        "test_who_sends_more_than_can_be_heard_at_once_is_not",
    ),
    "serve/test_rest.py": ALL,
    "serve/test_serve_command.py": ALL,
    "serve/test_workers.py": ALL,
    "text/test_captions.py": ("test_limits_and_order",),
    "cli/test_end_to_end.py": ALL,
    "cli/test_say_options.py": (
        "test_a_dictionary",
        "test_a_rate_is_the_resampler_s",
        "test_pauses_are_scaled",
        "test_plain_reads_everything",
        "test_the_header_of_a_file_is_right_at_the_end",
        "test_dates_and_capitals_are_read_as_asked",
    ),
    "text/test_markdown.py": ("test_blocks_are_those_of_markdown_it",),
    "cli/test_talk.py": ("test_the_embedded_brain_answers_a_pipe",),
    "cli/test_say.py": (
        "test_a_pipe_gets_a_wav_that_players_accept",
        "test_voices_lists_what_is_installed",
        "test_voices_that_are_not_there",
        "test_it_is_heard_through_a_sound_server",
        "test_what_was_played_is_recognised",
    ),
    "duplex/test_session.py": ALL,
    "duplex/test_live.py": ALL,
    "duplex/test_conversation_rules.py": ALL,
    "convert/test_mimi.py": (
        "test_equal_to_transformers",
        "test_what_does_not_fit_is_named",
    ),
    "export": ALL,
    "kernels/test_attention_step.py": ALL,
    "kernels/test_chunked_attention.py": ("test_operator_is_well_formed",),
    "kernels/test_conv_step.py": ("test_steps_equal_offline",),
    "kernels/test_dispatch.py": ("test_reference_needs_no_triton",),
    "kernels/test_kernel_report.py": ALL,
    "kernels/test_networks.py": ALL,
    "kernels/test_residual_decode.py": ("test_kernel_equals_reference",),
    "kernels/test_transducer_decode.py": ALL,
    "kernels/test_transducer_loss.py": ALL,
    "kernels/test_verify_gpu.py": ALL,
    "convert/test_flow_weights.py": (  # transformers' models take seconds to import
        "test_qwen_mask",
        "test_qwen_sample",
        "test_qwen_speaker_encoder",
        "test_qwen_streamed",
        "test_qwen_token2wav",
        "test_qwen_velocity",
    ),
    "nn/test_bigvgan.py": ALL,
    "nn/test_flow.py": ("test_the_cost_of_a_chunk_is_flat",),
    "nn/test_whisper.py": ("test_the_position_table_is_whispers",),
    "recipes": ALL,
    "runtime": ALL,
    "serve/test_deepgram.py": ALL,
    "serve/test_stream_socket.py": ALL,
    "serve/test_wyoming.py": (
        "test_any_rate_width_and_channels",
        "test_names_of_the_home_are_hot_words",
        "test_requests_that_come_at_once_are_answered_in_order",
        "test_who_reads_late_gets_all_and_little_is_kept_meanwhile",
    ),
    "serve/test_page.py": (
        "test_a_conversation_goes_on_after_a_drop_and_says_so",
        "test_a_conversation_that_is_interrupted_by_voice",
        "test_a_dropped_socket_and_a_reload_lose_no_word",
        "test_a_reload_in_the_middle_of_a_sentence",
        "test_a_text_is_spoken",
        "test_a_typed_question_and_a_stop",
        "test_a_wrong_key_is_told_and_a_right_one_is_nowhere_to_be_seen",
        "test_all_controls_are_named_within_reach_and_large_enough",
        "test_every_file_comes_with_its_type_and_a_strict_policy",
        "test_what_there_is_needs_the_key",
    ),
    "serve/test_realtime_protocol.py": ("test_nothing_a_client_sends_breaks_it",),
    "serve/test_realtime_socket.py": ALL,
    "test_evaluate.py": (
        "test_normaliser_is_whispers",
        "test_report_tables_and_pictures",
    ),
    "test_imports.py": ("test_a_file_is_transcribed_without_torch",),
    "test_packaging.py": ("test_the_wheel_has_one_top_level_name",),
    "tts/test_codec.py": ALL,
    "tts/test_embedded_voice.py": ("test_it_is_understood",),
    "tts/test_pocket_voice.py": ALL,
    "tts/test_cosyvoice_voice.py": ALL,
    "convert/test_cosyvoice_checkpoints.py": ALL,
}
# The files that take longest, the longest first. Workers begin with them (`pytest -n 2 --dist loadfile`), so that none of
# them is the last one running; xdist's own order, by the number of tests, begins with those of many small ones.
LONGEST = (
    "serve/test_page.py",
    "export/test_standalone.py",
    "recipes/test_blockwise_tts.py",
    "asr/test_moonshine.py",
    "runtime/test_pool.py",
    "duplex/test_live.py",
    "serve/test_workers.py",
    "asr/test_qwen_asr.py",
    "serve/test_realtime_socket.py",
    "cli/test_end_to_end.py",
    "serve/test_serve_command.py",
    "tts/test_codec.py",
    "serve/test_deepgram.py",
    "serve/test_wyoming.py",
    "kernels/test_kernel_report.py",
    "tts/test_cosyvoice_voice.py",
    "tts/test_pocket_voice.py",
    "runtime/test_pool_fastconformer.py",
    "serve/test_stream_socket.py",
    "serve/test_rest.py",
    "kernels/test_networks.py",
    "kernels/test_hostile_shapes.py",
)
HAS_TORCH = importlib.util.find_spec("torch") is not None
TORCH_FOLDERS = ("kernels", "nn", "recipes")
NEEDS_TORCH = re.compile(
    r"^\s*(import|from) (torch|transformers|librosa|onnx|recipes|tests\.tiny|speechstream\.(nn|kernels|convert|export))\b",
    re.M,
)

ASOUNDRC = """
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


@functools.cache
def _needs_torch(module: Path) -> bool:
    return bool(NEEDS_TORCH.search(module.read_text(encoding="utf-8")))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without torch the tests that need it are not looked at, so that the light ones run anywhere."""
    if HAS_TORCH:
        return None
    if collection_path.is_dir():
        return collection_path.name in TORCH_FOLDERS or None
    return (collection_path.suffix == ".py" and _needs_torch(collection_path)) or None


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # xdist is here
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers that follow from where a test lives, what its module imports, and how long it was seen to take."""
    here = Path(__file__).parent
    rank = {name: n for n, name in enumerate(LONGEST)}
    items.sort(
        key=lambda item: rank.get(item.path.relative_to(here).as_posix(), len(LONGEST))
    )  # stable
    for item in items:
        folder, name = item.path.relative_to(here), getattr(item, "originalname", item.name)
        if _needs_torch(item.path) or folder.parts[0] in TORCH_FOLDERS:
            item.add_marker("torch")
        if "pulse_server" in getattr(item, "fixturenames", ()):
            item.add_marker("sound")
        slow = SLOW.get(folder.parts[0]) or SLOW.get(folder.as_posix(), ())
        if slow == ALL or name in slow:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of recordings (see its PROVENANCE.md)."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def embedded_asr():
    """The embedded recogniser, opened once. Nobody changes it."""
    from speechstream import Recognizer

    return Recognizer.load()


@pytest.fixture(scope="session")
def embedded_tts():
    """The embedded voice, opened once. Nobody changes it."""
    from speechstream import Synthesizer

    return Synthesizer.load()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a random causal Whisper (tests/tiny.py), whose export takes many seconds."""
    from tests.shared import made_once
    from tests.tiny import make_tiny

    return made_once(tmp_path_factory, "tiny", make_tiny)


@pytest.fixture(scope="session")
def small_codec(tmp_path_factory):
    """The folder of a small codec and its graphs (tests/small_codec_tiny.py)."""
    from tests.shared import made_once
    from tests.small_codec_tiny import make

    return made_once(tmp_path_factory, "small codec", make)


@dataclass(frozen=True)
class PulseServer:
    """A sound server without hardware: what is played into its sink can be recorded from the sink's monitor.

    `env` is the environment in which a process finds it, through PulseAudio and through ALSA's default device, so
    through PortAudio too. PortAudio looks once for a process: run what is to be tested in a process of its own.
    """

    env: dict[str, str]
    process: subprocess.Popen
    sink: str = "speech"

    def play(self, path: Path) -> subprocess.Popen:
        """Begin to play an audio file into the sink."""
        return subprocess.Popen(
            ["paplay", f"--device={self.sink}", "--latency-msec=300", str(path)], env=self.env
        )

    def record(self, path: Path, rate: int = 16_000) -> subprocess.Popen:
        """Begin to record the monitor into a WAV file, until the process is terminated."""
        recorder = subprocess.Popen(
            [
                "parecord",
                f"--device={self.sink}.monitor",
                "--file-format=wav",
                "--channels=1",
                f"--rate={rate}",
                "--format=s16le",
                "--latency-msec=50",
                str(path),
            ],
            env=self.env,
        )
        until = time.monotonic() + 5
        while time.monotonic() < until and not (path.exists() and path.stat().st_size > 44):
            time.sleep(0.02)
        return recorder


@pytest.fixture
def pulse_server(tmp_path):
    """A private PulseAudio with a null sink; skips where it cannot be started."""
    missing = [p for p in ("pulseaudio", "pactl", "paplay", "parecord") if shutil.which(p) is None]
    if missing:
        pytest.skip(
            f"no {', '.join(missing)} here (Debian packages pulseaudio and pulseaudio-utils)"
        )
    runtime, home = tmp_path / "run", tmp_path / "home"
    for folder in (runtime, home):
        folder.mkdir(mode=0o700)
    (home / ".asoundrc").write_text(ASOUNDRC)
    socket = runtime / "native"
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PULSE_", "DBUS_", "ALSA_", "DISPLAY"))
    }
    env |= {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PULSE_RUNTIME_PATH": str(runtime),
        "PULSE_SERVER": f"unix:{socket}",
        "PULSE_SINK": PulseServer.sink,
        "PULSE_SOURCE": f"{PulseServer.sink}.monitor",
    }
    command = [
        "pulseaudio",
        "-n",
        "--daemonize=no",
        "--exit-idle-time=-1",
        "--use-pid-file=no",
        "--resample-method=speex-float-5",
        "--log-target=stderr",
        "--log-level=error",
        "-L",
        f"module-null-sink sink_name={PulseServer.sink} rate=48000 channels=2",
        "-L",
        f"module-native-protocol-unix socket={socket} auth-anonymous=1",
    ]
    with open(tmp_path / "pulseaudio.log", "wb") as log:
        server_env = {k: v for k, v in env.items() if k != "PULSE_SERVER"}
        process = subprocess.Popen(command, env=server_env, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 10
        while subprocess.run(["pactl", "info"], env=env, capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > until:
                pytest.skip(
                    "PulseAudio did not start: " + (tmp_path / "pulseaudio.log").read_text()[-300:]
                )
            time.sleep(0.05)
        yield PulseServer(env, process)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
