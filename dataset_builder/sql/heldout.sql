-- One row per prompt of a held-out tree, with the numbers of its usable replies, best first. Prompts are left out that
-- people never let through: deleted, machine-written, failed in review, of a tree that was stopped, or below a message that
-- is missing.
-- reads: messages, paths, splits    grain: prompt_id

with replies as (
    select
        parent_id as prompt_id,
        list(message_id order by rank, place, message_id) as replies
    from messages
    where role = 'assistant' and not deleted and not synthetic and review_result is distinct from false
    group by parent_id
)

select
    prompts.message_id as prompt_id,
    splits.split,
    coalesce(replies.replies, []) as replies
from messages as prompts
inner join paths using (message_id)
inner join splits on splits.tree_id = prompts.tree_id
left join replies on replies.prompt_id = prompts.message_id
where prompts.role = 'prompter'
    and splits.split <> 'train'
    and paths.is_complete
    and not paths.has_deleted
    and not paths.has_synthetic
    and prompts.review_result is distinct from false
    and coalesce(prompts.tree_state, '') not in ('initial_prompt_review', 'aborted_low_grade', 'halted_by_moderator')
order by prompt_id
