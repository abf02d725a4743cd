-- One row per prompt of a held-out tree, with its usable replies, best first. Prompts are left out that people never let
-- through: deleted, machine-written, failed in review, of a tree that was stopped, or below a message that is missing.
-- reads: messages, splits    grain: prompt_id

with recursive

path as (
    select
        messages.message_id,
        [{'message_id': messages.message_id, 'role': messages.role, 'text': messages.text}] as turns,
        messages.deleted or messages.synthetic as is_spoilt
    from messages
    inner join splits using (tree_id)
    where messages.parent_id is null and splits.split <> 'train'

    union all

    select
        messages.message_id,
        list_append(
            path.turns, {'message_id': messages.message_id, 'role': messages.role, 'text': messages.text}
        ) as turns,
        path.is_spoilt or messages.deleted or messages.synthetic as is_spoilt
    from path
    inner join messages on messages.parent_id = path.message_id
),

replies as (
    select
        parent_id as prompt_id,
        list(
            {'reply_id': message_id, 'text': text, 'rank': rank, 'words': words} order by rank, place, message_id
        ) as replies
    from messages
    where role = 'assistant' and not deleted and not synthetic and review_result is distinct from false
    group by parent_id
)

select
    prompts.message_id as prompt_id,
    prompts.tree_id,
    splits.split,
    prompts.lang,
    prompts.parent_id is null as is_root,
    len(list_filter(path.turns, lambda turn: turn.role = 'prompter'))::integer as turns,
    path.turns[:-2] as history,
    prompts.text as question,
    coalesce(replies.replies, []) as replies
from messages as prompts
inner join path on path.message_id = prompts.message_id
inner join splits on splits.tree_id = prompts.tree_id
left join replies on replies.prompt_id = prompts.message_id
where prompts.role = 'prompter'
    and not path.is_spoilt
    and prompts.review_result is distinct from false
    and coalesce(prompts.tree_state, '') not in ('initial_prompt_review', 'aborted_low_grade', 'halted_by_moderator')
order by prompts.message_id
