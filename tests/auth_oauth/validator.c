/* The smallest OAuth validator that PostgreSQL 18 loads: it takes every token that begins with "good-", as that of the user
 * whose name follows. Debian's packages of PostgreSQL's headers come without version 18, so what is needed of fmgr.h and
 * libpq/oauth.h stands here. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    int length;
    int version, function_arguments, index_keys, name_length, float8_by_value;
    char abi[32];
    const char *name, *module_version;
} Magic;

typedef struct {
    bool authorized;
    char *name;
} Result;

typedef struct {
    uint32_t magic;
    void (*startup)(void *state);
    void (*shutdown)(void *state);
    bool (*validate)(const void *state, const char *token, const char *role, Result *result);
} Callbacks;

extern char *pstrdup(const char *text);

const Magic *Pg_magic_func(void) {
    static const Magic magic = {sizeof magic, 1800, 100, 32, 64, 1, "PostgreSQL", 0, 0};
    return &magic;
}

static bool validate(const void *state, const char *token, const char *role, Result *result) {
    (void)state;
    (void)role;
    result->authorized = strncmp(token, "good-", 5) == 0;
    result->name = result->authorized ? pstrdup(token + 5) : 0;
    return true;
}

const Callbacks *_PG_oauth_validator_module_init(void) {
    static const Callbacks callbacks = {0x20250220, 0, 0, validate};
    return &callbacks;
}
