//! Sizes as people write them.

/// Reads a size such as `16KiB`, in bytes. Units are binary: KiB, MiB, GiB, TiB, or their first letter.
///
/// # Errors
/// What is wrong with it, to follow the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(format!("unit \"{}\" is not one of KiB, MiB, GiB, TiB", unit.trim())),
    };
    let number: u64 = number.parse().map_err(|_| "is not a number and a unit, such as 16KiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("16KiB"), Ok(16384));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(parse_size("5 parsecs").is_err());
        assert!(parse_size("99999999999TiB").is_err());
    }
}
