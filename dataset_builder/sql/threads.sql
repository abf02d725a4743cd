-- One row per reply, with the conversation that led to it. Where a message above is missing, the conversation begins below
-- the gap and is not complete. A message without a language counts as `und`, undetermined, which no recipe names.
-- reads: messages, standings, leaves, best_paths, splits, near_prompts    grain: thread_id

with recursive

-- One row per message: the way down to it, itself included.
path as (
    select
        messages.message_id,
        messages.parent_id is null as is_complete,
        [{'message_id': messages.message_id, 'role': messages.role, 'text': messages.text}] as turns,
        [coalesce(messages.lang, 'und')] as langs,
        messages.lang as root_lang,
        messages.deleted as has_deleted,
        messages.synthetic as has_synthetic,
        near_prompts.message_id is not null as near_held_out,
        standings.standing as worst_standing,
        messages.role = 'assistant' and standings.standing is null as has_unranked
    from messages
    left join standings using (message_id)
    left join near_prompts using (message_id)
    where messages.parent_id is null
        or not exists (from messages as parents where parents.message_id = messages.parent_id)

    union all

    select
        messages.message_id,
        path.is_complete,
        list_append(
            path.turns, {'message_id': messages.message_id, 'role': messages.role, 'text': messages.text}
        ) as turns,
        list_append(path.langs, coalesce(messages.lang, 'und')) as langs,
        path.root_lang,
        path.has_deleted or messages.deleted as has_deleted,
        path.has_synthetic or messages.synthetic as has_synthetic,
        path.near_held_out or near_prompts.message_id is not null as near_held_out,
        greatest(path.worst_standing, standings.standing) as worst_standing,
        path.has_unranked or (messages.role = 'assistant' and standings.standing is null) as has_unranked
    from path
    inner join messages on messages.parent_id = path.message_id
    left join standings on standings.message_id = messages.message_id
    left join near_prompts on near_prompts.message_id = messages.message_id
)

select
    replies.message_id as thread_id,
    replies.tree_id,
    replies.parent_id as prompt_id,
    splits.split,
    replies.tree_state,
    path.root_lang,
    replies.lang,
    list_sort(list_distinct(path.langs)) as langs,
    len(list_filter(path.turns, lambda turn: turn.role = 'prompter'))::integer as turns,
    path.turns[:-3] as history,
    prompts.text as question,
    replies.text as reply,
    replies.rank,
    standings.standing,
    case when not path.has_unranked then path.worst_standing end as worst_standing,
    path.is_complete,
    path.has_deleted,
    path.has_synthetic,
    replies.review_result is not distinct from false as review_failed,
    leaves.thread_id is not null as is_leaf,
    coalesce(leaves.cuts_synthetic, false) as cuts_synthetic,
    best_paths.thread_id is not null as is_best_path,
    path.near_held_out and splits.split = 'train' as near_held_out,
    replies.words as reply_words,
    prompts.words as question_words,
    list_sort(
        list_transform(replies.labels, lambda label: {'name': label.name, 'value': label.value})
    ) as labels
from messages as replies
inner join path on path.message_id = replies.message_id
inner join standings on standings.message_id = replies.message_id
inner join splits on splits.tree_id = replies.tree_id
left join messages as prompts on prompts.message_id = replies.parent_id
left join leaves on leaves.thread_id = replies.message_id
left join best_paths on best_paths.thread_id = replies.message_id
where replies.role = 'assistant'
order by replies.message_id
