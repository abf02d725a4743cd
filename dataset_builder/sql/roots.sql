-- One row per tree: the message whose text decides whether it is held out. Of a tree without its root, the topmost message
-- there is.
-- reads: messages    grain: tree_id

with tops as (
    select
        tree_id,
        message_id,
        row_number() over (partition by tree_id order by parent_id is not null, message_id) as nth
    from messages
    where parent_id is null
        or not exists (from messages as parents where parents.message_id = messages.parent_id)
)

select tree_id, message_id
from tops
where nth = 1
order by tree_id
