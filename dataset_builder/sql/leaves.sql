-- One row per reply that ends a conversation by Open Assistant's own rule: it has no follow-up, or its first follow-up was
-- never answered and is cut off. Through the first one only, so that no reply is emitted twice; and a deleted follow-up
-- rejects the conversation before it is cut off, a synthetic one does so where synthetic messages are not wanted.
-- reads: messages    grain: thread_id

with follow_ups as (
    select
        parent_id,
        deleted,
        synthetic,
        message_id in (select parent_id from messages where parent_id is not null) as is_answered
    from messages
    where role = 'prompter' and parent_id is not null
    qualify row_number() over (partition by parent_id order by place, message_id) = 1
)

select
    replies.message_id as thread_id,
    coalesce(follow_ups.synthetic, false) as cuts_synthetic
from messages as replies
left join follow_ups on follow_ups.parent_id = replies.message_id
where replies.role = 'assistant'
    and (follow_ups.parent_id is null or not (follow_ups.is_answered or follow_ups.deleted))
order by thread_id
