"""What the command line prints: hands, live status, summary, findings of the doctor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hamuco.app.doctor import Finding
from hamuco.app.live import Status
from hamuco.app.truth_monitor import TruthMatch
from hamuco.fusion.hand import JOINT_NAMES, Hand
from hamuco.streaming.messages import HandMessage

# Later than this, hands lag visibly behind; a replay, which drops nothing, then falls back further and further.
_BEHIND_MS = 500.0


def hand_line(hand: HandMessage) -> str:
    """One line for people: time, identity, wrist and index fingertip in millimetres, quality."""
    wrist, tip = (1000 * hand.joints[JOINT_NAMES.index(name)] for name in ("wrist", "index_tip"))
    quality = "extrapolated" if hand.state == "predicted" else f"{len(hand.views)} views {hand.reprojection_px:4.1f} px"
    return (
        f"set {hand.set_id:6d}  {hand.side:5s} #{hand.track_id:<3d} "
        f"wrist ({wrist[0]:6.0f} {wrist[1]:6.0f} {wrist[2]:6.0f}) mm  "
        f"index tip ({tip[0]:6.0f} {tip[1]:6.0f} {tip[2]:6.0f}) mm  {quality}"
    )


def hand_json(hand: HandMessage) -> str:
    """One JSON object with everything a program may want; metres, radians, nanoseconds."""
    return json.dumps(
        {
            "set_id": hand.set_id,
            "seq": hand.seq,
            "t_capture_ns": hand.t_capture_ns,
            "t_publish_ns": hand.t_publish_ns,
            "spread_ns": hand.spread_ns,
            "smoothing_delay_ns": hand.smoothing_delay_ns,
            "track_id": hand.track_id,
            "side": hand.side,
            "side_confidence": round(hand.side_confidence, 4),
            "state": hand.state,
            "views": list(hand.views),
            "reprojection_px": None if hand.state == "predicted" else round(hand.reprojection_px, 2),
            "joints": hand.joints.tolist(),
            "joint_confidence": hand.joint_confidence.tolist(),
            "global_orient": hand.parameters.global_orient.tolist(),
            "hand_pose": hand.parameters.hand_pose.tolist(),
            "betas": hand.parameters.betas.tolist(),
            "transl": hand.parameters.transl.tolist(),
        }
    )


def status_line(status: Status, sets_per_second: float) -> str:
    """The run at a glance, in 80 characters where two hands are compared with the truth and nothing is dropped."""
    cameras = len(status.result.hand_set.cameras)
    hands = "  ".join(_brief(hand, cameras) for hand in status.result.hand_set.hands) or f"{cameras} cameras, no hands"
    frames = sum(count for reason, count in status.dropped.items() if reason.startswith("frames_"))
    sets = status.dropped.get("sets_skipped", 0)
    dropped = f"  dropped {frames} frames, {sets} sets" if frames or sets else ""
    return (
        f"set {status.result.hand_set.set_id}  {sets_per_second:.1f}/s  {status.latency_ms['total']:.0f} ms  "
        f"{hands}{_error(status.truth)}{dropped}"
    )


def print_summary(report: Mapping[str, Any], console: Console) -> None:
    """The report's main figures as a table."""
    table = Table(title="this run", show_header=False)
    sets, latency = report["sets"], report["latency_ms"]
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sets["dropped"].items())
    table.add_row("frame sets", f"{sets['seen']} seen, {sets['complete']} complete, dropped: {dropped or 'none'}")
    views = ", ".join(f"{count} from {number}" for number, count in report["hands"]["by_views"].items() if count)
    table.add_row("hands by number of views", views or "none")
    for key, unit in (("reprojection_px", "px"), ("leave_one_out_px", "px"), ("fit_residual_mm", "mm")):
        values = report[key]
        if values["median"] is not None:
            table.add_row(
                key.rsplit("_", 1)[0].replace("_", " "), f"{values['median']} {unit} median, {values['p95']} p95"
            )
    if "truth" in report:
        _add_truth(table, report["truth"])
    if "total" in latency:
        total = latency["total"]
        table.add_row("set complete to published", f"{total['p50']} ms median, {total['p99']} p99, {total['max']} max")
    table.add_row("throughput", f"{report['throughput_sets_per_s']} sets/s")
    if (behind := latency.get("capture_to_publish", {}).get("max", 0)) > _BEHIND_MS:
        table.add_row("behind the cameras", f"up to {behind / 1e3:.1f} s: this computer does not keep up with them")
    table.add_row("runtime", report["runtime"])
    console.print(table)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _add_truth(table: Table, truth: Mapping[str, Any]) -> None:
    if not truth["hands"]:
        table.add_row("true hands found", "not known: truth.npz has other times than the recording")
        return
    found = f"{100 * truth['coverage']:.1f} % of {truth['hands']}"
    found += f", {truth['wrong_side']} taken for the other side" if truth["wrong_side"] else ""
    table.add_row("true hands found", found)
    if truth["not_there"]:
        table.add_row("hands that are not there", str(truth["not_there"]))
    for key, name, term in (
        ("mpjpe_mm", "distance to the true joints", "MPJPE"),
        ("pa_mpjpe_mm", "the same, hands aligned", "PA-MPJPE"),
    ):
        values = truth[key]
        if values["mean"] is not None:
            table.add_row(
                name, f"{values['mean']:.1f} mm mean ({term}), {values['median']:.1f} median, {values['p95']:.1f} p95"
            )


def print_findings(findings: Sequence[Finding]) -> None:
    """The doctor's findings, one a line, with what to do about the bad ones."""
    console = Console()
    for finding in findings:
        mark = "[green]ok[/]  " if finding.good else "[red]NO[/]  " if finding.needed else "[yellow]--[/]  "
        console.print(f"{mark}{finding.what:18s} {escape(finding.detail)}", highlight=False, soft_wrap=True)


def _brief(hand: Hand, cameras: int) -> str:
    seen = f"{len(hand.views)}/{cameras} views" if hand.views else "unseen"
    return f"{hand.side} {hand.track_id} {seen}"


def _error(truth: Sequence[TruthMatch] | None) -> str:
    """Mean over the hands that were found."""
    found = [match for match in truth or () if match.hand is not None]
    if not found:
        return ""
    error, aligned = fmean(match.mpjpe_mm for match in found), fmean(match.pa_mpjpe_mm for match in found)
    return f"  error {error:.1f} mm, aligned {aligned:.1f}"
