"""The one statement that an export is: what it reads, in which order, and what the options filter."""

from typing import Any

from feedback_app.datasets.exporting.options import ExportOptions
from feedback_app.projects.models import Project

# Stands between the parts of a row: JSON never holds it unescaped.
UNIT = "\x1f"

# A row is a response, its text at the end; a task's first row begins with the task. All but the texts is joined and
# sorted first, then the texts are read from where they lie (ctid: what one statement sees stays in place), in about the
# order in which they were stored. Looked up by their ids, each text cost a walk down an index to another corner of the
# memory, half of PostgreSQL's time; sorted with the rest, they went through the disk.
QUERY = """
COPY (
    WITH judged AS (
        SELECT judgment.task_id, string_agg(concat(
                   '["', judgment.id, '",',
                   to_json(CASE WHEN person.kind = 'imported' THEN person.display_name ELSE person.username END),
                   CASE WHEN judgment.origin = 'simulated' THEN ',true,' ELSE ',false,' END,
                   array_to_json(judgment.ranks), CASE WHEN judgment.all_bad THEN ',true,' ELSE ',false,' END,
                   coalesce(judgment.strength::text, 'null'), ',', judgment.ratings, ',', judgment.flags, ',',
                   judgment.rewrites, ',', to_json(judgment.rationale), ',',
                   coalesce(judgment.lead_time::text, 'null'), ',"',
                   to_char(judgment.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'), '",',
                   judgment.revision, ',', protocol.number, ',', coalesce(guidelines.number::text, 'null'), ']'
               ), ',' ORDER BY judgment.created_at, judgment.id) AS verdicts
        FROM annotation_judgment judgment
        JOIN accounts_user person ON person.id = judgment.annotator_id
        JOIN annotation_assignment assignment ON assignment.id = judgment.assignment_id
        JOIN projects_protocol_version protocol ON protocol.id = assignment.protocol_id
        LEFT JOIN projects_guidelines_version guidelines ON guidelines.id = assignment.guidelines_id
        WHERE judgment.project_id = %(project)s AND NOT judgment.surplus AND judgment.voided_at IS NULL
              {judgment_filters}
        GROUP BY judgment.task_id
    ), ready AS (
        SELECT prompt.created_at, task.prompt_id, task.id, place.position,
               CASE WHEN place.position = 0 THEN concat_ws(
                   E'\\x1f', task.id, task.prompt_id, prompt.split, to_json(prompt.language),
                   to_json(task.external_id), judged.verdicts, {adjudicated}, ''
               ) END AS task_part,
               concat_ws(
                   E'\\x1f', '', response.id, to_json(response.model_name), to_json(coalesce(policy.name, '')),
                   coalesce(policy.number::text, ''), to_json(response.finish_reason),
                   coalesce(response.token_count::text, ''), coalesce(response.seed::text, ''), ''
               ) AS response_part,
               CASE WHEN place.position = 0 THEN prompt.ctid END AS prompt_at, response.ctid AS response_at
        FROM judged
        JOIN annotation_task task ON task.id = judged.task_id {adjudications}
        JOIN annotation_prompt prompt ON prompt.id = task.prompt_id {prompt_filters}
        JOIN annotation_task_response place ON place.task_id = task.id
        JOIN annotation_response response ON response.id = place.response_id
        LEFT JOIN serving_policy_version policy ON policy.id = response.policy_id
        WHERE task.project_id = %(project)s AND task.kind IN ('normal', 'gate')
        ORDER BY prompt.created_at, task.prompt_id, task.id, place.position
    )
    SELECT concat(
        ready.task_part, (SELECT prompt.messages FROM annotation_prompt prompt WHERE prompt.ctid = ready.prompt_at),
        ready.response_part,
        (SELECT to_json(response.text) FROM annotation_response response WHERE response.ctid = ready.response_at)
    )
    FROM ready
    ORDER BY ready.created_at, ready.prompt_id, ready.id, ready.position
) TO STDOUT (FORMAT binary)
"""

# A reviewer's verdict has no assignment: the protocol and guidelines are those of the judgments it stands above.
ADJUDICATED = """coalesce(json_build_array(
            task.id, coalesce(reviewer.username, 'adjudicator'), false, adjudication.ranks, adjudication.all_bad,
            adjudication.strength, adjudication.ratings, adjudication.flags, json_build_object(),
            adjudication.rationale, null,
            to_char(adjudication.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'), 1
        )::text, '')"""
ADJUDICATIONS = """JOIN annotation_adjudication adjudication ON adjudication.task_id = task.id
        LEFT JOIN accounts_user reviewer ON reviewer.id = adjudication.adjudicated_by_id"""


def export_query(project: Project, split: str, options: ExportOptions) -> tuple[str, dict[str, Any]]:
    """Return the COPY of a project's judged tasks and its parameters; split is one side, or "all"."""
    judgments, prompts = [], []
    values: dict[str, Any] = {"project": project.pk}
    if options.simulated != "include":
        judgments.append(f"judgment.origin {'=' if options.simulated == 'only' else '<>'} 'simulated'")
    for name, sign in (("since", ">="), ("until", "<")):
        if moment := getattr(options, name):
            judgments.append(f"judgment.created_at {sign} %({name})s::timestamptz")
            values[name] = moment
    if options.annotators:
        judgments.append(
            "(person.username = ANY(%(annotators)s)"
            " OR person.kind = 'imported' AND person.display_name = ANY(%(annotators)s))"
        )
        values["annotators"] = list(options.annotators)
    if options.minimum_strength:
        judgments.append("(judgment.strength IS NULL OR judgment.strength >= %(minimum_strength)s)")
        values["minimum_strength"] = options.minimum_strength
    if options.all_bad == "drop":
        judgments.append("NOT judgment.all_bad")
    if split != "all":
        prompts.append("prompt.split = %(split)s")
        values["split"] = split
    if options.languages:
        prompts.append("prompt.language = ANY(%(languages)s)")
        values["languages"] = list(options.languages)
    above = {"replace": f"LEFT {ADJUDICATIONS}", "only": ADJUDICATIONS, "ignore": ""}[options.adjudicated]
    query = QUERY.format(
        adjudications=above,
        adjudicated=f"CASE WHEN adjudication.id IS NULL THEN '' ELSE {ADJUDICATED} END" if above else "''",
        judgment_filters="".join(f"AND {condition} " for condition in judgments),
        prompt_filters="".join(f"AND {condition} " for condition in prompts),
    )
    return query, values
