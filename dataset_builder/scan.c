/* Lines as exporters write them: where every value of every message stands.

A line is taken only where each byte of it is what the usual form has there; of any other nothing is kept, and it is left
to plain.py and rows.py. So this is narrow on purpose and refuses nothing. It checks what a strict parser checks: UTF-8,
escapes, surrogates, control characters, numbers, keys that stand twice, depth.

scanning.py calls it. `buffer` ends with a newline, which stops every loop here, and PADDING bytes behind it, so that eight
bytes may be read at every place. Nothing is allocated, and nothing written beyond the room that is given. */

#include <stdint.h>
#include <string.h>

enum { LEVELS = 64, ENTRIES = 64 }; /* messages within messages; labels or emojis of one message */
enum { NAME = 256 };                /* bytes of what a reply takes over from what is above it, once for each of them */

/* Keys of a message; the first eight are texts that are kept. */
enum { ID, PARENT, TEXT, LANG, MODEL, CREATED, TREE, STATE, USER, ROLE, RANK, REVIEW_COUNT, DELETED, SYNTHETIC,
       REVIEW_RESULT, LABELS, EMOJIS, REPLIES, EVENTS, DETOXIFY, PROMPT, ORIGIN, N_KEYS };
static const char *const KEYS[] = {
    "message_id", "parent_id", "text", "lang", "model_name", "created_date", "message_tree_id", "tree_state", "user_id",
    "role", "rank", "review_count", "deleted", "synthetic", "review_result", "labels", "emojis", "replies", "events",
    "detoxify", "prompt", "origin"};
enum { N_SCORES = 7 };
static const char *const SCORES[] = {"toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat",
                                     "sexual_explicit"};

/* A message. Of a null text the size is -1, and so is a null number or flag. */
typedef struct {
    int32_t at[8], size[8]; /* of each text, in the buffer */
    int32_t unescaped;      /* bytes of the text without its escapes */
    int32_t role;           /* 0 for a prompter, 1 for an assistant */
    int32_t rank, review_count, deleted, synthetic, review_result;
    int32_t labels_at, labels, emojis_at, emojis;
    int32_t place, row;
} Message;

typedef struct {
    int32_t at, size, count;
} Entry; /* a label or an emoji: its name, and how many people */

typedef struct {
    int32_t line, at, nested;
} Row; /* a line that was taken */

typedef struct {
    int32_t line, at, size;
} Left; /* one that was not */

typedef struct {
    int32_t entry, at, size;
} Inexact; /* the mean of a label that is left to be read with care */

typedef struct {
    Message *messages;
    Entry *labels, *emojis;
    double *values; /* of labels */
    Inexact *inexact;
    Row *rows;
    Left *left;
    int64_t room_messages, room_labels, room_emojis, room_left;
    int64_t n_messages, n_labels, n_emojis, n_inexact, n_rows, n_left, n_lines;
} Found;

typedef const unsigned char *Bytes;

static const uint64_t HIGH = 0x8080808080808080u, ONES = 0x0101010101010101u;
static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static inline uint64_t eight(Bytes at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

/* A bit in each byte that is zero, at least in the first of them. */
static inline uint64_t zeros(uint64_t word) { return (word - ONES) & ~word & HIGH; }

static inline int first_of(uint64_t found) { return __builtin_ctzll(found) >> 3; }

static inline Bytes blank(Bytes at) {
    while (*at == ' ' || *at == '\t' || *at == '\r') at++;
    return at;
}

/* Where what stands behind `sign` begins; NULL where that does not stand here. */
static inline Bytes behind(Bytes at, unsigned char sign) {
    at = blank(at);
    return *at == sign ? blank(at + 1) : NULL;
}

/* Bytes of the UTF-8 sequence at `at`, of more than one; 0 where it is none. */
static inline int sequence(Bytes at) {
    unsigned first = at[0], second = at[1];
    if ((second & 0xC0) != 0x80 || first < 0xC2) return 0;
    if (first < 0xE0) return 2;
    if ((at[2] & 0xC0) != 0x80) return 0;
    if (first < 0xF0) return (first == 0xE0 && second < 0xA0) || (first == 0xED && second >= 0xA0) ? 0 : 3;
    if ((at[3] & 0xC0) != 0x80 || first > 0xF4) return 0;
    return (first == 0xF0 && second < 0x90) || (first == 0xF4 && second >= 0x90) ? 0 : 4;
}

/* What four hexadecimal digits say; -1 where they are none. */
static int hexadecimal(Bytes at) {
    int number = 0;
    for (int n = 0; n < 4; n++) {
        int sign = at[n], small = sign | 0x20;
        if (sign >= '0' && sign <= '9') number = number * 16 + sign - '0';
        else if (small >= 'a' && small <= 'f') number = number * 16 + small - 'a' + 10;
        else return -1;
    }
    return number;
}

/* Where the string behind a quote ends, at its quote; NULL where it is none. `saved`: bytes its escapes will save. */
static Bytes string(Bytes at, int32_t *saved) {
    *saved = 0;
    for (;;) {
        uint64_t word = eight(at);
        uint64_t found = ((((word - ONES * ' ') & ~word) | zeros(word ^ ONES * '"') | zeros(word ^ ONES * '\\')) | word) & HIGH;
        if (!found) {
            at += 8;
            continue;
        }
        at += first_of(found);
        if (*at == '"') return at;
        if (*at >= 0x80) {
            do {
                int size = sequence(at);
                if (!size) return NULL;
                at += size;
            } while (*at >= 0x80);
        } else if (*at == '\\') {
            switch (at[1]) {
            case 'n': case '"': case '\\': case '/': case 't': case 'r': case 'b': case 'f':
                at += 2;
                *saved += 1;
                break;
            case 'u': {
                int code = hexadecimal(at + 2);
                if (code <= 0) return NULL;
                if (code >= 0xD800 && code < 0xE000) {
                    if (code >= 0xDC00 || at[6] != '\\' || at[7] != 'u') return NULL;
                    int low = hexadecimal(at + 8);
                    if (low < 0xDC00 || low >= 0xE000) return NULL;
                    at += 12;
                    *saved += 8;
                } else {
                    at += 6;
                    *saved += code < 0x80 ? 5 : code < 0x800 ? 4 : 3;
                }
                break;
            }
            default:
                return NULL;
            }
        } else {
            return NULL; /* a control character */
        }
    }
}

/* Where the whole number ends; NULL where it is none, or has a sign or more than nine digits. */
static inline Bytes whole(Bytes at, int32_t *number) {
    Bytes begin = at;
    int32_t found = 0;
    while (*at >= '0' && *at <= '9') {
        if (at - begin == 9) return NULL;
        found = found * 10 + (*at++ - '0');
    }
    if (at == begin || (at - begin > 1 && *begin == '0') || *at == '.' || *at == 'e' || *at == 'E') return NULL;
    *number = found;
    return at;
}

/* Where the number ends; NULL where it is none, or has a sign or very many digits. `value` is it where `exact`. */
static Bytes number(Bytes at, double *value, int *exact) {
    Bytes begin = at;
    uint64_t digits = 0;
    int decimals = 0, figures = 0;
    for (; *at >= '0' && *at <= '9'; at++) digits = digits * 10 + (*at - '0');
    figures = (int)(at - begin);
    if (at == begin || at - begin > 15 || (at - begin > 1 && *begin == '0')) return NULL;
    if (*at == '.') {
        Bytes point = ++at;
        for (; *at >= '0' && *at <= '9'; at++) {
            figures += digits || *at != '0';
            digits = digits * 10 + (*at - '0');
            if (at - point == 30) return NULL;
        }
        decimals = (int)(at - point);
        if (!decimals || figures > 19) return NULL;
    }
    *exact = decimals <= 22 && digits < (UINT64_C(1) << 53);
    if (*at == 'e' || *at == 'E') {
        *exact = 0;
        at++;
        if (*at == '+' || *at == '-') at++;
        begin = at;
        while (*at >= '0' && *at <= '9') at++;
        if (at == begin || at - begin > 2) return NULL;
    }
    /* Both are exact, and so their quotient is rounded once. */
    if (*exact) *value = (double)digits / TENS[decimals];
    return at;
}

/* Which of `keys` stands behind a quote; -1 where none does. */
static inline int key_of(Bytes at, const char *const *keys, int n, int guess) {
    size_t size = strlen(keys[guess]);
    if (!memcmp(at, keys[guess], size) && at[size] == '"') return guess;
    for (int key = 0; key < n; key++) {
        size = strlen(keys[key]);
        if (!strncmp((const char *)at, keys[key], size) && at[size] == '"') return key;
    }
    return -1;
}

/* A number for some bytes; of two different strings it may be the same. */
static uint64_t hash(Bytes at, int64_t size) {
    uint64_t found = (uint64_t)size;
    for (; size > 0; at += 8, size -= 8) {
        uint64_t word = size >= 8 ? eight(at) : eight(at) & ((UINT64_C(1) << 8 * size) - 1);
        found = (found ^ word) * UINT64_C(6364136223846793005);
        found ^= found >> 32;
    }
    return found;
}

/* Where what follows the name of the n-th entry of a map begins; NULL where the entry cannot be taken. */
static Bytes named(Bytes buffer, Bytes at, Entry *entry, uint64_t *names, int n) {
    int32_t saved;
    if (*at != '"' || n == ENTRIES) return NULL;
    Bytes begin = at + 1, end = string(begin, &saved);
    if (!end || saved) return NULL;
    entry->at = (int32_t)(begin - buffer), entry->size = (int32_t)(end - begin);
    names[n] = hash(begin, end - begin);
    for (int before = 0; before < n; before++)
        if (names[before] == names[n]) return NULL;
    return behind(end + 1, ':');
}

static Bytes labels_of(Bytes buffer, Bytes at, Found *found) {
    uint64_t names[ENTRIES];
    for (int n = 0; *at != '}'; n++) {
        if (n && !(at = behind(at, ','))) return NULL;
        if (found->n_labels == found->room_labels) return NULL;
        Entry *entry = &found->labels[found->n_labels];
        if (!(at = named(buffer, at, entry, names, n)) || *at != '{') return NULL;
        at = blank(at + 1);
        for (int seen = 0; seen < 3; at = blank(at)) {
            if (seen && !(at = behind(at, ','))) return NULL;
            if (!(seen & 1) && !memcmp(at, "\"value\"", 7)) {
                if (!(at = behind(at + 7, ':'))) return NULL;
                Bytes begin = at;
                int exact;
                if (!(at = number(at, &found->values[found->n_labels], &exact))) return NULL;
                if (!exact)
                    found->inexact[found->n_inexact++] =
                        (Inexact){(int32_t)found->n_labels, (int32_t)(begin - buffer), (int32_t)(at - begin)};
                seen |= 1;
            } else if (!(seen & 2) && !memcmp(at, "\"count\"", 7)) {
                if (!(at = behind(at + 7, ':')) || !(at = whole(at, &entry->count))) return NULL;
                seen |= 2;
            } else {
                return NULL;
            }
        }
        if (*at != '}') return NULL;
        at = blank(at + 1);
        found->n_labels++;
    }
    return at + 1;
}

static Bytes emojis_of(Bytes buffer, Bytes at, Found *found) {
    uint64_t names[ENTRIES];
    for (int n = 0; *at != '}'; n++) {
        if (n && !(at = behind(at, ','))) return NULL;
        if (found->n_emojis == found->room_emojis) return NULL;
        Entry *entry = &found->emojis[found->n_emojis];
        if (!(at = named(buffer, at, entry, names, n)) || !(at = whole(at, &entry->count))) return NULL;
        at = blank(at);
        found->n_emojis++;
    }
    return at + 1;
}

static Bytes scores_of(Bytes at) {
    int seen = 0, key = -1, exact;
    double value;
    for (; seen < (1 << N_SCORES) - 1; at = blank(at)) {
        if (seen && !(at = behind(at, ','))) return NULL;
        if (*at != '"') return NULL;
        key = key_of(at + 1, SCORES, N_SCORES, (key + 1) % N_SCORES);
        if (key < 0 || seen >> key & 1) return NULL;
        seen |= 1 << key;
        if (!(at = behind(at + 2 + strlen(SCORES[key]), ':')) || !(at = number(at, &value, &exact))) return NULL;
    }
    return *at == '}' ? at + 1 : NULL;
}

static inline int same(Bytes buffer, const Message *one, int text, const Message *other) {
    return one->size[text] == other->size[ID] && !memcmp(buffer + one->at[text], buffer + other->at[ID], other->size[ID]);
}

/* Whether a message that has ended can be taken, below the message `above` or none. */
static int is_sound(Bytes buffer, Message *message, const Message *above, int place) {
    if (message->size[ID] < 1 || message->size[TEXT] < 0 || message->role < 0) return 0;
    message->place = place;
    if (above) {
        if (above->size[ID] < 1) return 0; /* named behind its replies */
        if (message->size[PARENT] < 0)
            message->at[PARENT] = above->at[ID], message->size[PARENT] = above->size[ID];
        else if (!same(buffer, message, PARENT, above))
            return 0;
    }
    return !same(buffer, message, PARENT, message); /* its own parent */
}

static int is_word(Bytes at, const char *word) { return !strncmp((const char *)at, word, strlen(word)); }

/* Where the row that begins at a brace ends; NULL where it is not in the usual form. Its messages stand behind those
before, parents before their replies. `follows` guesses the next key by the one before. */
static Bytes row_of(Bytes buffer, Bytes at, Found *found, int *follows) {
    struct {
        int64_t message;
        int seen, replies;
    } stack[LEVELS];
    const int shared = 1 << TREE | 1 << STATE; /* keys of a tree as well */
    const int64_t start = found->n_messages;
    int64_t n = start, i = start;
    int is_tree = 0, tree_seen = 0, is_nested = 0, depth = 0, seen = 0, first = 1, guess = N_KEYS, opens = 1;
    int32_t tree_at = 0, tree_size = -1, state_at = 0, state_size = -1, saved;
    Message *message = NULL;
    at++;
    for (;;) {
        if (opens) {
            if (n == found->room_messages) return NULL;
            i = n++;
            message = &found->messages[i];
            memset(message, 0xFF, sizeof *message);
            seen = opens = 0, first = 1, guess = N_KEYS;
        }
        int in_tree = is_tree && !depth;
        at = blank(at);
        if (*at == '}') {
            at++;
            if (in_tree) {
                if (!(tree_seen >> PROMPT & 1)) return NULL;
                break;
            }
            if (!depth) {
                if (!is_sound(buffer, message, NULL, is_nested ? 0 : -1)) return NULL;
                break;
            }
            if (is_tree && depth == 1) {
                if (!is_sound(buffer, message, NULL, 0)) return NULL;
                depth = first = 0, guess = PROMPT;
                continue;
            }
            if (!is_sound(buffer, message, &found->messages[stack[depth - 1].message], stack[depth - 1].replies++))
                return NULL;
            at = blank(at);
            if (*at == ',') {
                at = blank(at + 1);
                if (*at++ != '{') return NULL;
                opens = 1;
                continue;
            }
            if (*at++ != ']') return NULL;
            depth--;
            i = stack[depth].message, seen = stack[depth].seen, first = 0, guess = REPLIES;
            message = &found->messages[i];
            continue;
        }
        if (!first && !(at = behind(at, ','))) return NULL;
        first = 0;
        if (*at != '"') return NULL;
        int key = key_of(at + 1, KEYS, N_KEYS, follows[guess]);
        if (key < 0) return NULL;
        follows[guess] = key;
        guess = key;
        if (!(at = behind(at + 2 + strlen(KEYS[key]), ':'))) return NULL;
        if (!depth && !is_tree && key >= PROMPT) {
            /* A tree, then; what was read of it so far is what both may have. */
            if (seen & ~shared) return NULL;
            is_tree = in_tree = 1, tree_seen = seen;
            tree_at = message->at[TREE], tree_size = message->size[TREE];
            state_at = message->at[STATE], state_size = message->size[STATE];
            n--;
        }
        int *known = in_tree ? &tree_seen : &seen;
        if (*known >> key & 1 || (in_tree ? !(key >= PROMPT || shared >> key & 1) : key >= PROMPT)) return NULL;
        *known |= 1 << key;
        if (is_word(at, "null")) {
            at += 4;
            if (key == ROLE || key == PROMPT) return NULL;
            continue;
        }
        switch (key) {
        case ID: case PARENT: case TEXT: case LANG: case MODEL: case CREATED: case TREE: case STATE: case USER: {
            if (*at != '"') return NULL;
            Bytes begin = at + 1, end = string(begin, &saved);
            if (!end || (saved && key != TEXT)) return NULL;
            int32_t place = (int32_t)(begin - buffer), size = (int32_t)(end - begin);
            if (size > NAME && (key == ID || key == PARENT || shared >> key & 1)) return NULL;
            at = end + 1;
            if (key == TEXT) message->unescaped = size - saved;
            if (in_tree && key == TREE) tree_at = place, tree_size = size;
            else if (in_tree) state_at = place, state_size = size;
            else if (key != USER) message->at[key] = place, message->size[key] = size;
            break;
        }
        case ROLE:
            if (is_word(at, "\"prompter\"")) message->role = 0, at += 10;
            else if (is_word(at, "\"assistant\"")) message->role = 1, at += 11;
            else return NULL;
            break;
        case RANK:
            if (!(at = whole(at, &message->rank))) return NULL;
            break;
        case REVIEW_COUNT:
            if (!(at = whole(at, &message->review_count))) return NULL;
            break;
        case DELETED: case SYNTHETIC: case REVIEW_RESULT: {
            int flag = is_word(at, "true");
            if (!flag && !is_word(at, "false")) return NULL;
            *(key == DELETED ? &message->deleted : key == SYNTHETIC ? &message->synthetic : &message->review_result) = flag;
            at += flag ? 4 : 5;
            break;
        }
        case LABELS:
            message->labels_at = (int32_t)found->n_labels;
            if (*at != '{' || !(at = labels_of(buffer, blank(at + 1), found))) return NULL;
            message->labels = (int32_t)found->n_labels - message->labels_at;
            break;
        case EMOJIS:
            message->emojis_at = (int32_t)found->n_emojis;
            if (*at != '{' || !(at = emojis_of(buffer, blank(at + 1), found))) return NULL;
            message->emojis = (int32_t)found->n_emojis - message->emojis_at;
            break;
        case DETOXIFY:
            if (*at != '{' || !(at = scores_of(blank(at + 1)))) return NULL;
            break;
        case REPLIES:
            if (*at != '[') return NULL;
            at = blank(at + 1);
            if (*at == ']') {
                at++;
                break;
            }
            if (*at++ != '{' || depth == LEVELS - 1) return NULL;
            is_nested = 1;
            stack[depth].message = i, stack[depth].seen = seen, stack[depth].replies = 0;
            depth++;
            opens = 1;
            break;
        case PROMPT:
            if (*at++ != '{') return NULL;
            depth = is_nested = opens = 1;
            break;
        default:
            return NULL; /* `events` and `origin` are null */
        }
    }
    if (!is_tree) {
        message = &found->messages[start];
        tree_at = message->at[TREE], tree_size = message->size[TREE];
        state_at = message->at[STATE], state_size = message->size[STATE];
    }
    for (i = start; i < n; i++) {
        message = &found->messages[i];
        /* Of the whole row first; there, an empty one is none. */
        if (tree_size > 0) message->at[TREE] = tree_at, message->size[TREE] = tree_size;
        else if (!message->size[TREE]) message->size[TREE] = -1;
        if (state_size > 0) message->at[STATE] = state_at, message->size[STATE] = state_size;
        message->row = (int32_t)found->n_rows;
    }
    found->n_messages = n;
    return at;
}

/* Reads the `size` bytes of `buffer`, whose last line may lack its end; 0 where too many lines are left. */
int scan(Bytes buffer, int64_t size, Found *found) {
    int follows[N_KEYS + 1] = {0};
    Bytes at = buffer, end = buffer + size;
    int32_t line = 0;
    for (; at < end; line++) {
        Bytes begin = blank(at);
        if (*begin == '\n') {
            at = begin + 1;
            continue;
        }
        Found before = *found;
        Bytes after = *begin == '{' ? row_of(buffer, begin, found, follows) : NULL;
        if (after && *(after = blank(after)) == '\n') {
            found->rows[found->n_rows++] =
                (Row){line, (int32_t)(at - buffer), found->messages[before.n_messages].place == 0};
        } else {
            *found = before;
            if (found->n_left == found->room_left) return 0;
            after = memchr(at, '\n', (size_t)(end - at) + 1);
            found->left[found->n_left++] = (Left){line, (int32_t)(at - buffer), (int32_t)(after - at)};
        }
        at = after + 1;
    }
    found->n_lines = line;
    return 1;
}

/* Puts strings behind each other in `out`, without their escapes where it is said how long they are without. What tells
of them stands every `step` numbers. `sizes` are -1 for null. */
void copy_strings(Bytes buffer, const int32_t *at, const int32_t *sizes, int64_t step, int64_t n, unsigned char *out) {
    for (; n > 0; n--, at += step, sizes += step)
        if (*sizes > 0) {
            memcpy(out, buffer + *at, (size_t)*sizes);
            out += *sizes;
        }
}

static unsigned char *encoded(unsigned char *out, int code) {
    if (code < 0x80) {
        *out++ = (unsigned char)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (unsigned char)(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *out++ = (unsigned char)(0xE0 | code >> 12);
        } else {
            *out++ = (unsigned char)(0xF0 | code >> 18);
            *out++ = (unsigned char)(0x80 | (code >> 12 & 63));
        }
        *out++ = (unsigned char)(0x80 | (code >> 6 & 63));
    }
    *out++ = (unsigned char)(0x80 | (code & 63));
    return out;
}

/* The texts of messages behind each other in `out`, without their escapes. */
void copy_texts(Bytes buffer, const Message *messages, int64_t n, unsigned char *out) {
    for (const Message *message = messages; message < messages + n; message++) {
        Bytes at = buffer + message->at[TEXT], end = at + message->size[TEXT];
        while (at < end) {
            Bytes slash = message->unescaped == message->size[TEXT] ? NULL : memchr(at, '\\', (size_t)(end - at));
            size_t plain = (size_t)((slash ? slash : end) - at);
            memcpy(out, at, plain);
            at += plain, out += plain;
            if (!slash) break;
            if (at[1] == 'u') {
                int code = hexadecimal(at + 2);
                at += 6;
                if (code >= 0xD800 && code < 0xE000) {
                    code = 0x10000 + ((code - 0xD800) << 10) + hexadecimal(at + 2) - 0xDC00;
                    at += 6;
                }
                out = encoded(out, code);
            } else {
                static const char from[] = "ntrbf", to[] = "\n\t\r\b\f";
                const char *which = strchr(from, at[1]);
                *out++ = which ? (unsigned char)to[which - from] : at[1];
                at += 2;
            }
        }
    }
}

enum { LETTER = 1, DIGIT = 2, UNDERSCORE = 4, JOIN = 8, OTHER = 64 };

/* What a sign is to Unicode's rules for words, which come to few between ASCII signs (bounds.py says which). */
static void kinds_of(unsigned char *kinds) {
    for (int sign = 0; sign < 256; sign++) {
        int small = sign | 0x20;
        kinds[sign] = sign >= 0x80                        ? OTHER
                      : small >= 'a' && small <= 'z'      ? LETTER
                      : sign >= '0' && sign <= '9'        ? DIGIT
                      : sign == '_'                       ? UNDERSCORE
                      : sign == '\'' || sign == '.'       ? JOIN * (LETTER | DIGIT)
                      : sign == ':'                       ? JOIN * LETTER
                      : sign == ',' || sign == ';'        ? JOIN * DIGIT
                                                          : 0;
    }
}

/* The next word at or behind `*at`: where it begins, and in `*at` where it ends; NULL where there is none. `kinds` are of
ASCII alone. */
static inline Bytes next_word(Bytes *at, Bytes end, const unsigned char *kinds) {
    Bytes now = *at, begin = NULL;
    int said = 0, before = 0;
    for (; now < end; now++) {
        int kind = kinds[*now];
        if (kind & (LETTER | DIGIT | UNDERSCORE)) {
            if (!begin) begin = now;
            said |= kind & (LETTER | DIGIT);
        } else if (!(now + 1 < end && before & kinds[now[1]] & kind >> 3)) {
            if (said) break;
            begin = NULL; /* a run of underscores is no word */
        }
        before = kind;
    }
    *at = now;
    return said ? begin : NULL;
}

/* The words of a text; in `seen` what kinds of signs it has. A word begins where something is inside of one and nothing
before it is, so that a processor has nothing to guess. Underscores are left to who looks at `seen`. */
static inline int words_of(Bytes at, Bytes end, const unsigned char *kinds, int *seen, int64_t *longest) {
    int words = 0, before = 0, inside = 0, kind = at < end ? kinds[*at] : 0;
    int64_t size = 0;
    *seen = 0;
    for (; at < end; at++) {
        int next = at + 1 < end ? kinds[at[1]] : 0, was = inside;
        inside = ((kind & (LETTER | DIGIT)) | (kind >> 3 & before & next)) != 0;
        words += inside & ~was;
        if (longest) {
            size = (size + 1) & -(int64_t)inside;
            *longest = size > *longest ? size : *longest;
        }
        *seen |= kind;
        before = kind, kind = next;
    }
    return words;
}

/* How many words each of `n` texts has; -1 where a text has signs beyond ASCII or a word of more than `longest` bytes. */
void count_words(Bytes data, const int32_t *offsets, int64_t n, int64_t longest, int32_t *counts) {
    unsigned char kinds[256];
    kinds_of(kinds);
    for (int64_t text = 0; text < n; text++) {
        Bytes at = data + offsets[text], end = data + offsets[text + 1], word;
        int64_t most = 0;
        int seen, bounded = longest < end - at;
        int words = bounded ? words_of(at, end, kinds, &seen, &most) : words_of(at, end, kinds, &seen, NULL);
        if (seen & OTHER) words = -1;
        else if (seen & UNDERSCORE || most > longest)
            for (words = 0; words >= 0 && (word = next_word(&at, end, kinds));)
                words = at - word > longest ? -1 : words + 1;
        counts[text] = words;
    }
}

/* How many signs of each of three kinds every text has: the bits that `kinds` has for a byte say of which it is. `counts` are
three a text. */
void count_kinds(Bytes data, const int32_t *offsets, int64_t n, const unsigned char *kinds, int32_t *counts) {
    for (int64_t text = 0; text < n; text++, counts += 3) {
        int32_t one = 0, two = 0, three = 0;
        for (Bytes at = data + offsets[text], end = data + offsets[text + 1]; at < end; at++) {
            int kind = kinds[*at];
            one += kind & 1, two += kind >> 1 & 1, three += kind >> 2 & 1;
        }
        counts[0] = one, counts[1] = two, counts[2] = three;
    }
}

static const uint64_t MULTIPLY = UINT64_C(6364136223846793005), FINISH = UINT64_C(0xFF51AFD7ED558CCD);

static inline uint64_t mixed(uint64_t hash) { return (hash ^ hash >> 33) * FINISH; }

static inline uint64_t spread(uint64_t hash) {
    hash = mixed(hash);
    return hash ^ hash >> 32;
}

/* The first `size` bytes, eight at most, in lower case, as a number. */
static inline uint64_t lowered(Bytes at, int64_t size, Bytes end) {
    uint64_t word = 0;
    if (size >= 8 || end - at >= 8) word = eight(at);
    else memcpy(&word, at, (size_t)size);
    if (size < 8) word &= (UINT64_C(1) << 8 * size) - 1;
    uint64_t upper = ((word + ONES * (0x80 - 'A')) ^ (word + ONES * (0x7F - 'Z'))) & HIGH;
    return word | upper >> 2;
}

/* The hashes of all runs of `size` words of each of `n` texts, from `places` on, as shingles.py has them. Texts whose
`words` are negative are left out. */
void hash_runs(Bytes data, const int32_t *offsets, int64_t n, int64_t size, const int32_t *words, const int64_t *places,
               uint64_t *hashes) {
    enum { MOST = 16 }; /* no longer runs are asked for */
    unsigned char kinds[256];
    kinds_of(kinds);
    Bytes last = data + offsets[n];
    for (int64_t text = 0; text < n; text++) {
        if (words[text] < 0) continue;
        Bytes at = data + offsets[text], end = data + offsets[text + 1], word;
        uint64_t run[MOST] = {0}, *out = hashes + places[text];
        int64_t seen = 0;
        for (;;) {
            uint64_t hash = 0;
            if ((word = next_word(&at, end, kinds))) {
                int64_t left = at - word;
                hash = spread(lowered(word, left, last));
                while ((left -= 8) > 0) {
                    word += 8;
                    hash = spread(hash * MULTIPLY + lowered(word, left, last));
                }
            } else if (seen >= size) {
                break;
            }
            run[seen++ & (MOST - 1)] = hash;
            if (seen >= size) {
                hash = 0;
                for (int64_t each = seen - size; each < seen; each++) hash = hash * MULTIPLY + run[each & (MOST - 1)];
                *out++ = mixed(hash);
            }
        }
    }
}

/* The hashes of the texts `members` behind each other, each mixed with its member's tag. */
void tag_runs(const uint64_t *hashes, const int64_t *offsets, const int64_t *members, const uint64_t *tags, int64_t n,
              uint64_t *out) {
    for (int64_t member = 0; member < n; member++)
        for (int64_t at = offsets[members[member]]; at < offsets[members[member] + 1]; at++)
            *out++ = mixed(hashes[at] ^ tags[member]);
}

/* Of each pair of texts: how many different runs the one has, the other, and both; `room` of `table` is a power of two, at
least twice the runs of any pair. */
void compare_runs(const uint64_t *hashes, const int64_t *offsets, const int64_t *pairs, int64_t n, uint64_t *table,
                  unsigned char *sides, int64_t room, int64_t *counts) {
    for (int64_t pair = 0; pair < n; pair++, counts += 3) {
        int64_t total = 0, here = 1;
        for (int side = 0; side < 2; side++) {
            int64_t text = pairs[2 * pair + side];
            total += offsets[text + 1] - offsets[text];
        }
        while (here < 2 * total && here < room) here *= 2;
        memset(sides, 0, (size_t)here);
        counts[0] = counts[1] = counts[2] = 0;
        for (int side = 0; side < 2; side++) {
            int64_t text = pairs[2 * pair + side];
            for (int64_t at = offsets[text]; at < offsets[text + 1]; at++) {
                uint64_t hash = hashes[at];
                int64_t slot = (int64_t)(hash >> 32) & (here - 1);
                while (sides[slot] && table[slot] != hash) slot = (slot + 1) & (here - 1);
                table[slot] = hash;
                if (sides[slot] >> side & 1) continue;
                counts[side]++;
                if (side && sides[slot]) counts[2]++;
                sides[slot] |= (unsigned char)(1 << side);
            }
        }
    }
}

/* Each of `n` texts in lower case with letters and digits alone, behind each other in `out`; where each ends in `ends`. Of
one with signs beyond ASCII, nothing. */
void fold_texts(Bytes data, const int32_t *offsets, int64_t n, unsigned char *out, int32_t *ends) {
    unsigned char folded[256], *begin = out;
    for (int sign = 0; sign < 256; sign++) {
        int small = sign | 0x20;
        folded[sign] = small >= 'a' && small <= 'z' ? small : sign >= '0' && sign <= '9' ? sign : 0;
    }
    for (int64_t text = 0; text < n; text++) {
        unsigned char *start = out, high = 0;
        for (Bytes at = data + offsets[text], end = data + offsets[text + 1]; at < end; at++) {
            high |= *at;
            *out = folded[*at < 0x80 ? *at : 0];
            out += *out != 0;
        }
        if (high & 0x80) out = start;
        ends[text] = (int32_t)(out - begin);
    }
}

/* Puts strings that lie anywhere behind each other in `out`. */
void gather(const uint64_t *at, const int32_t *sizes, int64_t n, unsigned char *out) {
    for (int64_t each = 0; each < n; out += sizes[each++]) memcpy(out, (Bytes)(uintptr_t)at[each], (size_t)sizes[each]);
}
