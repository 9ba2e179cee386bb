//! Tables of the console, and how they travel.

use crate::protocol::backend::{self, ColumnMeta};
use bytes::{BufMut, BytesMut};

/// Types of columns, by PostgreSQL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `text`
    Text,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `numeric`, always a whole number
    Numeric,
}

impl Type {
    fn oid(self) -> u32 {
        match self {
            Type::Text => 25,
            Type::Int4 => 23,
            Type::Int8 => 20,
            Type::Numeric => 1700,
        }
    }

    fn size(self) -> i16 {
        match self {
            Type::Int4 => 4,
            Type::Int8 => 8,
            Type::Text | Type::Numeric => -1,
        }
    }
}

/// How values travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// As PostgreSQL's binary representation of the type.
    Binary,
}

/// A column: its name and type.
pub type Column = (&'static str, Type);

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// Of a column of type text.
    Text(String),
    /// Of a column of any other type.
    Number(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as u64)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Number(flag.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// A row.
pub type Row = Vec<Value>;

/// Appends a RowDescription; `formats` has one for each column.
pub fn describe(out: &mut BytesMut, columns: &[Column], formats: &[Format]) {
    let meta = columns.iter().zip(formats).map(|((name, kind), format)| ColumnMeta {
        name,
        oid: kind.oid(),
        size: kind.size(),
        format: i16::from(*format == Format::Binary),
    });
    backend::row_description(out, meta);
}

/// Appends a DataRow.
pub fn write_row(out: &mut BytesMut, columns: &[Column], formats: &[Format], row: &Row) {
    let values = row.iter().zip(columns).zip(formats);
    backend::data_row(out, values.map(|((value, (_, kind)), format)| encode(value, *kind, *format)));
}

fn encode(value: &Value, kind: Type, format: Format) -> Option<Vec<u8>> {
    match (value, kind, format) {
        (Value::Null, ..) => None,
        (Value::Text(text), ..) => Some(text.as_bytes().to_vec()),
        (Value::Number(number), Type::Int4, Format::Binary) => {
            Some(i32::try_from(*number).unwrap_or(i32::MAX).to_be_bytes().to_vec())
        }
        (Value::Number(number), Type::Int4, Format::Text) => {
            Some(i32::try_from(*number).unwrap_or(i32::MAX).to_string().into_bytes())
        }
        (Value::Number(number), Type::Int8, Format::Binary) => {
            Some(i64::try_from(*number).unwrap_or(i64::MAX).to_be_bytes().to_vec())
        }
        (Value::Number(number), Type::Numeric, Format::Binary) => Some(binary_numeric(*number)),
        (Value::Number(number), ..) => Some(number.to_string().into_bytes()),
    }
}

/// `numeric_send` of PostgreSQL's: digits to the base 10000, the highest first, without zeros at the end.
fn binary_numeric(number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    digits.reverse();
    let weight = digits.len().saturating_sub(1) as i16;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let mut out = Vec::new();
    out.put_u16(digits.len() as u16);
    out.put_i16(weight);
    // Positive, and no digits behind the point.
    out.put_u32(0);
    digits.into_iter().for_each(|digit| out.put_u16(digit));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_travel_as_postgresql_sends_them() {
        let encoded = |number: u64, kind, format| encode(&Value::Number(number), kind, format).unwrap();
        assert_eq!(encoded(7, Type::Int4, Format::Binary), [0, 0, 0, 7]);
        assert_eq!(encoded(u64::MAX, Type::Int4, Format::Text), b"2147483647");
        assert_eq!(encoded(7, Type::Int8, Format::Binary), [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(encoded(12, Type::Numeric, Format::Text), b"12");
        assert_eq!(encode(&Value::Null, Type::Text, Format::Binary), None);
    }

    #[test]
    fn a_binary_numeric_has_digits_to_the_base_10000() {
        assert_eq!(binary_numeric(0), [0, 0, 0, 0, 0, 0, 0, 0]);
        // 12345678 = 1234 * 10000 + 5678
        assert_eq!(binary_numeric(12_345_678), [0, 2, 0, 1, 0, 0, 0, 0, 0x04, 0xd2, 0x16, 0x2e]);
        // 20000 = 2 * 10000, its zero left out
        assert_eq!(binary_numeric(20_000), [0, 1, 0, 1, 0, 0, 0, 0, 0, 2]);
    }
}
