"""Which lines of a cluster's processes are shown."""

from sttn_ray.quiet import without_internal


def test_what_cpp_logs_about_itself_is_left_out_and_all_else_is_kept() -> None:
    internal = [
        "[2026-01-31 12:00:00,123 E 8993 8993] core_worker.cc:2465: Actor with class name: 'Map'",
        "\x1b[31m[2026-01-31 12:00:00,123 W 8993 9001] plasma.cc:1: something",
    ]
    kept = [
        "step 20: loss 0.5",
        "Traceback (most recent call last):",
        "[2026-01-31 12:00:00,123 F 8993 8993] core_worker.cc:1: Check failed",
        "[12:00] a warning of ours",
        "",
    ]
    assert without_internal([internal[0], *kept, internal[1]]) == kept
