//! SASLprep (RFC 4013) as PostgreSQL applies it to passwords.
//!
//! Owns the steps; the tables are the `stringprep` crate's, the normalization is `unicode-normalization`'s. The steps
//! are not `stringprep::saslprep`, because PostgreSQL departs from the RFC: it looks for prohibited and unassigned
//! characters and for mixed directions before the normalization, not after it. That decides about passwords with
//! composed Hebrew letters, or with characters newer than Unicode 3.2 that normalize to older ones.

use std::borrow::Cow;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// The password as SCRAM hashes it: prepared by SASLprep, or as it is where SASLprep has no result for it
/// (prohibited characters, nothing left over), because PostgreSQL does not refuse such passwords.
pub fn prepare(password: &str) -> Cow<'_, str> {
    if password.is_ascii() {
        return Cow::Borrowed(password);
    }
    let mapped: Zeroizing<String> = Zeroizing::new(
        password
            .chars()
            .map(|c| if tables::non_ascii_space_character(c) { ' ' } else { c })
            .filter(|&c| !tables::commonly_mapped_to_nothing(c))
            .collect(),
    );
    if mapped.is_empty() || mapped.contains(is_prohibited) || mixes_directions(&mapped) {
        return Cow::Borrowed(password);
    }
    Cow::Owned(mapped.nfkc().collect())
}

/// The tables of RFC 4013, sections 2.3 and 2.5.
fn is_prohibited(c: char) -> bool {
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

/// RFC 3454, section 6: with any right-to-left character, both ends are such and no left-to-right one is in between.
fn mixes_directions(text: &str) -> bool {
    text.contains(tables::bidi_r_or_al)
        && (text.contains(tables::bidi_l)
            || !text.starts_with(tables::bidi_r_or_al)
            || !text.ends_with(tables::bidi_r_or_al))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_normalized() {
        assert_eq!(prepare("I\u{ad}X"), "IX");
        assert_eq!(prepare("a\u{a0}b"), "a b");
        assert_eq!(prepare("\u{2168}"), "IX");
        assert_eq!(prepare("USER"), "USER");
        assert_eq!(prepare("e\u{301}"), "\u{e9}");
    }

    #[test]
    fn what_saslprep_prohibits_stays_as_it_is() {
        for password in ["bell\u{7}", "\u{fb01}\u{e000}", "\u{fb01}\u{221}", "\u{fb01}\u{7}"] {
            assert_eq!(prepare(password), password);
        }
    }

    #[test]
    fn mixed_directions_stay_as_they_are() {
        for password in ["\u{5d0}\u{fb01}", "\u{5d0}\u{2460}", "\u{2460}\u{5d0}"] {
            assert_eq!(prepare(password), password);
        }
        assert_eq!(prepare("\u{5d0}\u{2460}\u{5d0}"), "\u{5d0}1\u{5d0}");
    }

    #[test]
    fn a_password_that_would_vanish_stays_as_it_is() {
        assert_eq!(prepare("\u{ad}"), "\u{ad}");
    }

    /// Each was compared with PostgreSQL 15's verifier; the letter of the RFC gives the other result.
    #[test]
    fn characters_are_judged_before_their_normalization_as_in_postgresql() {
        assert_eq!(prepare("\u{fb44}"), "\u{5e4}\u{5bc}");
        assert_eq!(prepare("\u{340}"), "\u{340}");
        assert_eq!(prepare("\u{2094}"), "\u{2094}");
    }
}
