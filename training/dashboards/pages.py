"""Pages: a project's workspace and its report, as objects of wandb-workspaces that nobody has saved yet."""

from typing import Any

from training.dashboards.project import Project

TITLE = "Rankers"
_READING = (
    "Each curve of a metric is on the validation queries. The references are judged on the same queries in every "
    "validation, so they are straight lines; `oracle` is the best that can be reached."
)
_PAPERS = (
    "Logged by `python -m benchmarks NAME --wandb`. Numbers in brackets are the paper's; ± is half of a 95 % interval; "
    "+ and - are better and worse than the best rival in a paired test."
)


def workspace_of(project: Project) -> Any:
    """The workspace: sections for quality, test, training, by K, scaling, samples, responses and tables.

    What a run logs besides, such as the histograms of scores, W&B adds in sections of its own.
    """
    from wandb_workspaces import workspaces

    sections = {
        "Quality": project.quality(),
        "Test": project.test(),
        "By K": project.picture("by K"),
        "Scaling map": project.picture("scaling map"),
        "Samples": project.samples(),
        "Training": project.training(),
        "Responses": project.picture("responses"),
        "Papers' tables": project.papers(),
    }
    return workspaces.Workspace(
        entity=project.entity,
        project=project.name,
        name=TITLE,
        sections=[
            workspaces.Section(name=name, panels=panels, is_open=place < 2)
            for place, (name, panels) in enumerate(sections.items())
        ],
        settings=workspaces.WorkspaceSettings(x_axis="trainer/global_step", max_runs=20),
        auto_generate_panels=True,  # type: ignore[call-arg]
    )


def report_of(project: Project) -> Any:
    """The report: the same panels with what they mean."""
    from wandb_workspaces.reports.v2 import interface as reports

    # A runset without project is of the report's own, and needs no server to be built.
    every, tables = reports.Runset(name="All runs"), reports.Runset(name="Tables", query="benchmarks/")
    parts = {
        "Quality": (_READING, project.quality(), every),
        "Test": ("All scorers on the test queries, once per run.", project.test(), every),
        "By K": ("The first metric, by the number of responses to choose from.", project.picture("by K"), every),
        "Scaling map": (
            "LRanker's validation metric for each width and depth of test-time scaling.",
            project.picture("scaling map"),
            every,
        ),
        "Samples": ("Some validation queries with their best candidates.", project.samples(), every),
        "Training": ("The loss and what belongs to it.", project.training(), every),
        "Papers' tables": (_PAPERS, project.papers(), tables),
    }
    blocks: list[Any] = [reports.TableOfContents()]
    for title, (text, panels, runs) in parts.items():
        blocks += [reports.H2(title), reports.MarkdownBlock(text), reports.PanelGrid(runsets=[runs], panels=panels)]
    return reports.Report(
        entity=project.entity,
        project=project.name,
        title=TITLE,
        description="Made by python -m training dashboard",
        blocks=blocks,
        width="fluid",
    )
