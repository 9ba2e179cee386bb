//! The words that the classifier knows: key words, types, and the built-in functions that keep no session state.
//!
//! Everything that is not here is unknown. A function belongs into [`FUNCTIONS`] only if none of PostgreSQL's own
//! functions of that name, in any supported version, leaves anything in the session, runs SQL it was given, or reaches
//! relations by their names.

use super::keywords::{KEYWORDS, Keyword};

/// A built-in function that leaves nothing behind, or a construct that looks like one.
pub(super) const FUNCTION: u8 = 1;
/// A built-in type, or a word that can end the name of one.
pub(super) const TYPE: u8 = 2;
/// A built-in function that leaves something behind. Never harmless, wherever it stands: `x.nextval` is a call, too.
pub(super) const STATEFUL: u8 = 4;

/// What is known of a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    name: &'static str,
    hash: u32,
    pub(super) keyword: Keyword,
    pub(super) flags: u8,
}

const UNKNOWN: Word = Word { name: "", hash: 0, keyword: Keyword::None, flags: 0 };

/// What is known of `name`; `exact` for a quoted identifier, which is no key word and is not folded.
#[inline]
pub(super) fn look_up(name: &[u8], hash: u32, exact: bool) -> Word {
    let mut slot = hash as usize % SLOTS;
    loop {
        let word = &WORDS[slot];
        if word.name.is_empty() {
            return UNKNOWN;
        }
        if word.hash == hash && same(word.name.as_bytes(), name, exact) {
            return if exact { Word { keyword: Keyword::None, ..*word } } else { *word };
        }
        slot = (slot + 1) % SLOTS;
    }
}

#[inline]
fn same(word: &[u8], name: &[u8], exact: bool) -> bool {
    word.len() == name.len()
        && word
            .iter()
            .zip(name)
            .all(|(&one, &other)| one == other || !exact && one == other.to_ascii_lowercase())
}

/// Whether `name` is one of the key words that the classifier gives a meaning.
pub(in crate::session) fn is_keyword(name: &[u8]) -> bool {
    look_up(name, hash(name), false).keyword != Keyword::None
}

/// Whether `name` is a built-in function that the classifier knows.
pub(in crate::session) fn is_function(name: &[u8]) -> bool {
    look_up(name, hash(name), false).flags & (FUNCTION | STATEFUL) != 0
}

/// The same for all spellings of a name in upper and lower case.
#[inline]
pub(in crate::session) const fn hash(name: &[u8]) -> u32 {
    const FOLD: u64 = 0x2020_2020_2020_2020;
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    let mut rest = name;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ (u64::from_le_bytes(*chunk) | FOLD)).wrapping_mul(FACTOR);
        hash ^= hash >> 29;
        rest = after;
    }
    let tail = match (rest.first_chunk::<4>(), rest.last_chunk::<4>(), rest) {
        (Some(first), Some(last), _) => {
            (u32::from_le_bytes(*first) as u64) << 32 | u32::from_le_bytes(*last) as u64
        }
        (_, _, [first, .., last]) => {
            (*first as u64) << 16 | (rest[rest.len() / 2] as u64) << 8 | *last as u64
        }
        (_, _, [only]) => *only as u64,
        _ => 0,
    };
    hash = (hash ^ (tail | FOLD)).wrapping_mul(FACTOR);
    (hash >> 32) as u32
}

const SLOTS: usize = 4096;

static WORDS: [Word; SLOTS] = build();

#[allow(long_running_const_eval, reason = "about a thousand names")]
const fn build() -> [Word; SLOTS] {
    let mut words = [UNKNOWN; SLOTS];
    words = add_all(words, FUNCTIONS, FUNCTION);
    words = add_all(words, TYPES, TYPE);
    words = add_all(words, STATEFUL_FUNCTIONS, STATEFUL);
    let mut at = 0;
    while at < KEYWORDS.len() {
        let (names, keyword) = KEYWORDS[at];
        let mut rest = names;
        while let Some((name, after)) = next_name(rest) {
            let slot = slot_of(&words, name);
            words[slot] = Word { name, hash: hash(name.as_bytes()), keyword, flags: words[slot].flags };
            rest = after;
        }
        at += 1;
    }
    words
}

const fn add_all(mut words: [Word; SLOTS], names: &'static str, flag: u8) -> [Word; SLOTS] {
    let mut rest = names;
    while let Some((name, after)) = next_name(rest) {
        let slot = slot_of(&words, name);
        words[slot] = Word {
            name,
            hash: hash(name.as_bytes()),
            keyword: words[slot].keyword,
            flags: words[slot].flags | flag,
        };
        rest = after;
    }
    words
}

/// Where `name` is or belongs.
const fn slot_of(words: &[Word; SLOTS], name: &str) -> usize {
    let mut slot = hash(name.as_bytes()) as usize % SLOTS;
    while !words[slot].name.is_empty() && !equal(words[slot].name.as_bytes(), name.as_bytes()) {
        slot = (slot + 1) % SLOTS;
    }
    slot
}

const fn equal(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The first of the names in a list with spaces between them, and the rest.
const fn next_name(list: &str) -> Option<(&str, &str)> {
    let list = list.trim_ascii();
    let bytes = list.as_bytes();
    let mut end = 0;
    while end < bytes.len() && bytes[end] != b' ' && bytes[end] != b'\n' {
        end += 1;
    }
    if end == 0 { None } else { Some(list.split_at(end)) }
}

const FUNCTIONS: &str = "
    abbrev abs acldefault aclexplode acos acosd acosh age any_value area array array_agg array_append array_cat
    array_dims array_fill array_length array_lower array_ndims array_position array_positions array_prepend
    array_remove array_replace array_reverse array_sample array_shuffle array_sort array_to_json array_to_string
    array_to_tsvector array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bit_and bit_count bit_length
    bit_or bit_xor bool bool_and bool_or bound_box box bpchar broadcast btrim bytea cardinality cash_words casefold
    cast cbrt ceil ceiling center char_length character_length chr cidr circle clock_timestamp coalesce col_description
    concat concat_ws convert convert_from convert_to corr cos cosd cosh cot cotd count covar_pop covar_samp crc32 crc32c
    cube cume_dist current_catalog current_database current_query current_role current_schema current_schemas
    current_setting current_time current_timestamp current_user date date_add date_bin date_part date_subtract date_trunc datemultirange
    daterange decode degrees dense_rank diagonal diameter div encode enum_first enum_last enum_range erf erfc every
    exists exp extract factorial family first_value float4 float8 floor format format_type gamma gcd gen_random_uuid
    generate_series generate_subscripts get_bit get_byte get_current_ts_config getdatabaseencoding greatest grouping
    has_any_column_privilege has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege
    has_function_privilege has_language_privilege has_largeobject_privilege has_parameter_privilege
    has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege has_tablespace_privilege
    has_type_privilege height host hostmask icu_unicode_version in_range inet_client_addr inet_client_port inet_merge
    inet_same_family inet_server_addr inet_server_port initcap int2 int4 int4multirange int4range int8 int8multirange
    int8range is_normalized isclosed isempty isfinite ishorizontal isopen isparallel isperp isvertical json
    json_agg json_array json_array_elements json_array_elements_text json_array_length json_build_array
    json_build_object json_each json_each_text json_extract_path json_extract_path_text json_object json_object_agg
    json_object_keys json_populate_record json_populate_recordset json_strip_nulls json_to_record json_to_recordset
    json_to_tsvector json_typeof jsonb jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length
    jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
    jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz
    jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz
    jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset
    jsonb_to_tsvector jsonb_typeof justify_days justify_hours justify_interval lag last_value lcm lead least
    left length lgamma like ln localtime localtimestamp log log10 lower lower_inc lower_inf lpad lseg ltrim macaddr macaddr8 macaddr8_set7bit
    make_date make_interval make_time make_timestamp make_timestamptz masklen max md5 min min_scale mod mode money
    multirange mxid_age name netmask network normalize now npoints nth_value ntile nullif num_nonnulls num_nulls
    numeric nummultirange numnode numrange obj_description octet_length overlaps overlay parse_ident path pclose
    percent_rank percentile_cont percentile_disc pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_backend_pid
    pg_blocking_pids pg_cancel_backend pg_char_to_encoding pg_client_encoding pg_collation_for
    pg_collation_is_visible pg_column_compression pg_column_is_updatable pg_column_size pg_conf_load_time
    pg_conversion_is_visible pg_current_snapshot pg_current_wal_flush_lsn pg_current_wal_insert_lsn
    pg_current_wal_lsn pg_current_xact_id pg_current_xact_id_if_assigned pg_database_size pg_describe_object
    pg_encoding_max_length pg_encoding_to_char pg_filenode_relation pg_function_is_visible pg_get_acl
    pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody pg_get_functiondef
    pg_get_indexdef pg_get_keywords pg_get_partition_constraintdef pg_get_partkeydef pg_get_ruledef
    pg_get_serial_sequence pg_get_statisticsobjdef pg_get_statisticsobjdef_columns
    pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role
    pg_identify_object pg_index_column_has_property pg_index_has_property pg_indexam_has_property pg_indexes_size
    pg_is_in_recovery pg_is_other_temp_schema pg_is_wal_replay_paused pg_jit_available pg_last_committed_xact
    pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_listening_channels pg_lsn
    pg_my_temp_schema pg_notification_queue_usage pg_notify pg_opclass_is_visible pg_operator_is_visible
    pg_opfamily_is_visible pg_options_to_table pg_partition_ancestors pg_partition_root pg_partition_tree
    pg_postmaster_start_time pg_relation_filenode pg_relation_filepath pg_relation_is_publishable
    pg_relation_is_updatable pg_relation_size pg_safe_snapshot_blocking_pids pg_sequence_last_value
    pg_sequence_parameters pg_settings_get_flags pg_size_bytes pg_size_pretty pg_sleep pg_sleep_for pg_sleep_until
    pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin pg_stat_get_activity pg_stat_get_live_tuples
    pg_stat_get_dead_tuples pg_statistics_obj_is_visible pg_table_is_visible pg_table_size pg_tablespace_databases
    pg_tablespace_location pg_tablespace_size pg_terminate_backend pg_total_relation_size pg_trigger_depth
    pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared pg_ts_config_is_visible pg_ts_dict_is_visible
    pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof pg_visible_in_snapshot
    pg_wal_lsn_diff pg_walfile_name pg_walfile_name_offset pg_xact_commit_timestamp pg_xact_status phraseto_tsquery pi
    plainto_tsquery point polygon popen position pow power querytree quote_ident quote_literal quote_nullable radians
    radius random random_normal range_agg range_intersect_agg range_merge rank regclass regexp_count regexp_instr
    regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr
    regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace reverse
    right round row row_number row_security_active row_to_json rpad rtrim scale session_user set_bit set_byte
    set_masklen setweight sha224 sha256 sha384 sha512 shobj_description sign sin sind sinh slope split_part sqrt
    starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array string_to_table strip
    strpos substr substring sum tan tand tanh text timeofday timestamptz timetz timezone to_ascii to_bin to_char to_date
    to_hex to_json to_jsonb to_number to_oct to_regclass to_regcollation to_regnamespace to_regoper to_regoperator
    to_regproc to_regprocedure to_regrole to_regtype to_regtypemod to_timestamp to_tsquery to_tsvector
    transaction_timestamp translate trim trim_array trim_scale trunc ts_debug ts_delete ts_filter ts_headline ts_lexize
    ts_parse ts_rank ts_rank_cd ts_token_type tsmultirange tsquery_phrase tsrange tstzmultirange tstzrange
    tsvector_to_array txid_current txid_current_if_assigned txid_current_snapshot txid_snapshot_xip txid_snapshot_xmax
    txid_snapshot_xmin txid_status txid_visible_in_snapshot unicode_assigned unicode_version unistr unnest upper
    upper_inc upper_inf uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 var_pop var_samp varbit varchar
    variance version websearch_to_tsquery width width_bucket xml_is_well_formed xml_is_well_formed_content
    xml_is_well_formed_document xmlagg xmlcomment xmlconcat xpath xpath_exists
";

const TYPES: &str = "
    aclitem bigint bit bool boolean box bpchar bytea char character cid cidr circle date datemultirange daterange dec
    decimal double float float4 float8 inet int int2 int2vector int4 int4multirange int4range int8 int8multirange
    int8range integer interval json jsonb jsonpath line lseg macaddr macaddr8 money name national nchar numeric
    nummultirange numrange oid oid8 oidvector path pg_lsn pg_snapshot point polygon precision real record refcursor
    regclass regcollation regconfig regdatabase regdictionary regnamespace regoper regoperator regproc regprocedure
    regrole regtype smallint text tid time timestamp timestamptz timetz tsmultirange tsquery tsrange tstzmultirange
    tstzrange tsvector txid_snapshot uuid varbit varchar varying without xid xid8 xml zone
";

const STATEFUL_FUNCTIONS: &str = "
    binary_upgrade_set_next_array_pg_type_oid brin_desummarize_range brin_summarize_new_values brin_summarize_range
    currval cursor_to_xml cursor_to_xmlschema database_to_xml database_to_xml_and_xmlschema database_to_xmlschema dblink
    dblink_connect dblink_exec gin_clean_pending_list lastval lo_export lo_import nextval pg_advisory_lock
    pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared pg_backup_start
    pg_backup_stop pg_logical_emit_message pg_replication_origin_session_reset pg_replication_origin_session_setup
    pg_replication_origin_xact_reset pg_replication_origin_xact_setup pg_start_backup pg_stop_backup
    pg_stop_making_pinned_objects pg_try_advisory_lock pg_try_advisory_lock_shared query_to_xml
    query_to_xml_and_xmlschema query_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema schema_to_xmlschema
    set_config set_limit setseed setval table_to_xml table_to_xml_and_xmlschema table_to_xmlschema ts_rewrite ts_stat
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_case_and_quoted_names_only_as_they_are() {
        let find = |name: &str, exact| look_up(name.as_bytes(), hash(name.as_bytes()), exact);
        assert_eq!(find("Lower", false).flags, FUNCTION);
        assert_eq!(find("Lower", true).flags, 0);
        assert_eq!(find("text", true).flags, FUNCTION | TYPE);
        assert_eq!(find("nextval", false).flags, STATEFUL);
        assert_eq!(find("SELECT", false).keyword, Keyword::Select);
        assert_eq!(find("select", true).keyword, Keyword::None);
        assert_eq!(find("nothing_of_the_kind", false).flags, 0);
    }

    #[test]
    fn no_function_is_both_harmless_and_stateful() {
        assert!(WORDS.iter().all(|word| word.flags & (FUNCTION | STATEFUL) != FUNCTION | STATEFUL));
        let known = WORDS.iter().filter(|word| !word.name.is_empty()).count();
        assert!((500..SLOTS / 2).contains(&known), "{known}");
    }
}
