/* Feeds dataset_builder/scan.c whatever changed lines come to, under the sanitizers, in rooms of exactly the size that its
callers give it; what reaches a new place of the code is changed further.

    scan_fuzz SEEDS RUNS NUMBER

SEEDS holds an input a line, NUMBER chooses the changes. Says how many runs were made, how many inputs were kept and how many
places they reached. An input at which a sanitizer stops, or a promise fails, is written in hexadecimal to stderr. */

#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../dataset_builder/scan.c"

enum { MOST = 4096, KEPT = 1 << 14, PLACES = 1 << 16, BEHIND = 33 /* a newline, and PADDING of lines.py */ };

typedef struct {
    int size;
    unsigned char *bytes;
} Input;

static Input kept[KEPT];
static int n_kept, n_places, n_touched, is_watching, now_size;
static unsigned char reached[PLACES], times[PLACES], now[MOST];
static uint16_t touched[PLACES];
static uint64_t state;

/* Called by the compiler at every branch of what is instrumented. A branch taken twice as often as ever, or four times, is
new as well, as in Zalewski's AFL. */
__attribute__((no_sanitize_coverage, no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc(void) {
    static uintptr_t before;
    if (!is_watching) return;
    uintptr_t place = (uintptr_t)__builtin_return_address(0), edge = (place ^ before >> 1) * 0x9E3779B97F4A7C15u >> 48;
    before = place;
    if (!times[edge]) touched[n_touched++] = (uint16_t)edge;
    if (times[edge] < 255) times[edge]++;
}

static int is_new(void) {
    int found = 0;
    for (; n_touched; n_touched--) {
        int edge = touched[n_touched - 1], often = times[edge], class = 0;
        while (often >> class > 1 && class < 7) class++;
        times[edge] = 0;
        n_places += !reached[edge];
        found |= !(reached[edge] >> class & 1);
        reached[edge] |= (unsigned char)(1 << class);
    }
    return found;
}

static void tell(void) {
    fputs("input: ", stderr);
    for (int n = 0; n < now_size; n++) fprintf(stderr, "%02x", now[n]);
    fputc('\n', stderr);
}

static void promise(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "broken promise: %s\n", what);
    tell();
    exit(1);
}

static uint64_t chance(uint64_t below) {
    state += 0x9E3779B97F4A7C15u; /* Steele and others 2014: SplitMix */
    uint64_t found = state;
    found = (found ^ found >> 30) * 0xBF58476D1CE4E5B9u;
    found = (found ^ found >> 27) * 0x94D049BB133111EBu;
    return (found ^ found >> 31) % below;
}

/* Room for `n` things and not a byte more; filled with what is no UTF-8. */
static void *room(int64_t n, size_t size) {
    size_t bytes = (size_t)n * size;
    void *found = malloc(bytes ? bytes : 1);
    promise(found != NULL, "memory");
    memset(found, 0xFF, bytes);
    return found;
}

static void is_utf8(Bytes at, int64_t size, const char *what) {
    for (Bytes end = at + size; at < end;) {
        int more = *at < 0x80 ? 1 : sequence(at);
        promise(more && at + more <= end, what);
        at += more;
    }
}

/* As scanning.py asks for the lines of a block. */
static void scans(void) {
    int64_t size = now_size, shrink = chance(8) ? 1 : 1 + (int64_t)chance(64);
    unsigned char *buffer = room(size + BEHIND, 1);
    memcpy(buffer, now, (size_t)size);
    memset(buffer + size, 0, BEHIND);
    buffer[size] = '\n';
    Found found = {.room_messages = (size / 45 + 64) / shrink, .room_labels = (size / 23 + 8) / shrink,
                   .room_emojis = (size / 8 + 8) / shrink, .room_left = (size / 1024 + 64) / shrink};
    found.messages = room(found.room_messages, sizeof *found.messages);
    found.labels = room(found.room_labels, sizeof *found.labels);
    found.emojis = room(found.room_emojis, sizeof *found.emojis);
    found.values = room(found.room_labels, sizeof *found.values);
    found.inexact = room(found.room_labels, sizeof *found.inexact);
    found.rows = room(found.room_messages, sizeof *found.rows);
    found.left = room(found.room_left, sizeof *found.left);
    is_watching = 1;
    int is_taken = scan(buffer, size, &found);
    is_watching = 0;
    if (is_taken) {
        int64_t n = found.n_messages, step = sizeof(Message) / sizeof(int32_t), unescaped = 0;
        promise(found.n_rows <= n && found.n_rows + found.n_left <= found.n_lines, "every line is taken or left once");
        const Message *messages = found.messages;
        for (int text = 0; text < 8 && n; text++) {
            int64_t bytes = 0;
            for (int64_t each = 0; each < n; each++) {
                int32_t at = messages[each].at[text], long_ = messages[each].size[text];
                if (long_ < 0) continue;
                promise(at >= 0 && at + long_ <= size, "a string lies within the block");
                is_utf8(buffer + at, long_, "a string is UTF-8");
                bytes += long_;
            }
            unsigned char *out = room(bytes, 1);
            copy_strings(buffer, &messages->at[text], &messages->size[text], step, n, out);
            is_utf8(out, bytes, "copied strings are UTF-8");
            free(out);
        }
        for (int64_t each = 0; each < n; each++) unescaped += messages[each].unescaped;
        unsigned char *out = room(unescaped, 1);
        copy_texts(buffer, messages, n, out);
        is_utf8(out, unescaped, "texts without their escapes are UTF-8");
        free(out);
    }
    free(found.messages), free(found.labels), free(found.emojis), free(found.values), free(found.inexact);
    free(found.rows), free(found.left), free(buffer);
}

/* As words.py, shingles.py, folds.py, flags.py and gather.py ask for some texts; here they are pieces of the input. */
static void texts(void) {
    enum { TEXTS = 6 };
    int32_t offsets[TEXTS + 1] = {0}, words[TEXTS], ends[TEXTS], kinds_counts[3 * TEXTS];
    int64_t n = 1 + (int64_t)chance(TEXTS), size = 1 + (int64_t)chance(8), places[TEXTS + 1] = {0};
    for (int64_t text = 1; text <= n; text++)
        offsets[text] = text == n ? now_size : offsets[text - 1] + (int32_t)chance((uint64_t)(now_size - offsets[text - 1]) + 1);
    unsigned char *data = room(now_size, 1), *out = room(now_size, 1), kinds[256];
    memcpy(data, now, (size_t)now_size);
    is_watching = 1;
    count_words(data, offsets, n, chance(2) ? 64 : INT64_C(1) << 62, words);
    for (int64_t text = 0; text < n; text++) {
        int64_t runs = words[text] - size + 1;
        promise(words[text] <= offsets[text + 1] - offsets[text], "no text has more words than bytes");
        places[text + 1] = places[text] + (words[text] < 0 ? 0 : runs > 1 ? runs : 1);
    }
    uint64_t *hashes = room(places[n], 8), *tagged = room(places[n], 8), tags[TEXTS];
    hash_runs(data, offsets, n, size, words, places, hashes);
    int64_t members[TEXTS], pairs[2 * TEXTS], counts[3 * TEXTS], most = 1, table_room = 1;
    for (int64_t text = 0; text < n; text++) {
        members[text] = (int64_t)chance((uint64_t)n), tags[text] = chance(UINT64_MAX);
        pairs[2 * text] = (int64_t)chance((uint64_t)n), pairs[2 * text + 1] = (int64_t)chance((uint64_t)n);
        int64_t both = 0;
        for (int side = 0; side < 2; side++)
            both += places[pairs[2 * text + side] + 1] - places[pairs[2 * text + side]];
        most = both > most ? both : most;
    }
    for (int64_t member = 0; member < n; member++) members[member] = member;
    tag_runs(hashes, places, members, tags, n, tagged);
    while (table_room < 2 * most) table_room *= 2;
    uint64_t *table = room(table_room, 8);
    unsigned char *sides = room(table_room, 1);
    compare_runs(hashes, places, pairs, n, table, sides, table_room, counts);
    for (int64_t pair = 0; pair < n; pair++)
        promise(counts[3 * pair + 2] <= counts[3 * pair] && counts[3 * pair + 2] <= counts[3 * pair + 1], "both is in each");
    fold_texts(data, offsets, n, out, ends);
    for (int64_t text = 0; text < n; text++)
        promise(ends[text] >= (text ? ends[text - 1] : 0) && ends[text] <= offsets[text + 1], "folding makes no text longer");
    for (int sign = 0; sign < 256; sign++) kinds[sign] = (unsigned char)(sign & 7);
    count_kinds(data, offsets, n, kinds, kinds_counts);
    uint64_t where[TEXTS];
    int32_t sizes[TEXTS];
    for (int64_t text = 0; text < n; text++) where[text] = (uintptr_t)(data + offsets[text]), sizes[text] = offsets[text + 1] - offsets[text];
    gather(where, sizes, n, out);
    is_watching = 0;
    promise(!memcmp(out, data, (size_t)now_size), "gathered texts are the texts");
    free(data), free(out), free(hashes), free(tagged), free(table), free(sides);
}

static void keep(Bytes bytes, int size) {
    if (n_kept == KEPT || size > MOST) return;
    kept[n_kept].bytes = room(size, 1);
    memcpy(kept[n_kept].bytes, bytes, (size_t)size);
    kept[n_kept++].size = size;
}

/* Puts `size` bytes in place of `gone` at `at`, where there is room. */
static void put(int at, int gone, Bytes bytes, int size) {
    if (now_size - gone + size > MOST) return;
    unsigned char copy[MOST];
    memcpy(copy, bytes, (size_t)size);
    memmove(now + at + size, now + at + gone, (size_t)(now_size - at - gone));
    memcpy(now + at, copy, (size_t)size);
    now_size += size - gone;
}

static void change(void) {
    static const char *const WORDS[] = {
        "{", "}", "[", "]", ",", ":", "\"", "\\", "\n", "\r", " ", "\\u0000", "\\ud83d\\ude00", "\\ud800", "\\n", "\\/", "null",
        "true", "false", "0", "1", "-1", "0.5", "1e-05", "9999999999", "0.1234567890123456789", "123456789012345", "\xc3\xa9",
        "\xed\xa0\x80", "\xf0\x9f\x98\x80", "\xff", "{\"prompt\": ", "\"replies\": [{", "}]}", "\"labels\": {\"spam\": {\"value\": 0, "
        "\"count\": 1}}", "\"emojis\": {\"+1\": 1}", "\"detoxify\": {\"toxicity\": 0.1}", "\"events\": null", "\"role\": \"assistant\"",
        "\"text\": \"a\"", "\"message_id\": \"b\"", "\"parent_id\": \"b\"", "\"rank\": 0", "\"deleted\": true", "_", "'", ".", "a.b"};
    enum { N_WORDS = sizeof WORDS / sizeof *WORDS };
    const Input *from = &kept[chance((uint64_t)n_kept)];
    memcpy(now, from->bytes, (size_t)(now_size = from->size));
    for (int more = 1 + (int)chance(4); more > 0; more--) {
        int at = (int)chance((uint64_t)now_size + 1), left = now_size - at;
        int some = left ? 1 + (int)chance((uint64_t)(left < 64 ? left : 64)) : 0;
        unsigned char sign = (unsigned char)chance(256);
        const char *word = WORDS[chance(N_WORDS)];
        const Input *other = &kept[chance((uint64_t)n_kept)];
        int begin = (int)chance((uint64_t)other->size + 1), size = other->size - begin;
        switch (chance(7)) {
        case 0: if (left) now[at] ^= (unsigned char)(1 << chance(8)); break;
        case 1: put(at, left ? 1 : 0, &sign, 1); break;
        case 2: put(at, 0, (Bytes)word, (int)strlen(word)); break;
        case 3: put(at, some, (Bytes)word, (int)strlen(word)); break;
        case 4: put(at, some, now, 0); break;
        case 5: put(at, 0, now + at, some); break;
        default: put(at, some, other->bytes + begin, size > 256 ? (int)chance(256) : size);
        }
    }
}

int main(int n, char **arguments) {
    if (n != 4) return fprintf(stderr, "scan_fuzz SEEDS RUNS NUMBER\n"), 2;
    FILE *seeds = fopen(arguments[1], "rb");
    static char line[MOST];
    if (!seeds) return perror(arguments[1]), 2;
    while (fgets(line, sizeof line, seeds)) keep((Bytes)line, (int)strcspn(line, "\n"));
    fclose(seeds);
    if (!n_kept) return fprintf(stderr, "%s: no input\n", arguments[1]), 2;
    __sanitizer_set_death_callback(tell);
    long runs = atol(arguments[2]), run;
    state = strtoull(arguments[3], NULL, 10) * 0x9E3779B97F4A7C15u + 1;
    for (run = 0; run < runs; run++) {
        if (run < n_kept && run < 256) memcpy(now, kept[run].bytes, (size_t)(now_size = kept[run].size));
        else change();
        scans();
        texts();
        if (is_new()) keep(now, now_size);
    }
    printf("%ld runs, %d inputs kept, %d places reached\n", run, n_kept, n_places);
    return 0;
}
