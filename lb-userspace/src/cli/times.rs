//! Times and shares on the command line.

use std::time::Duration;

/// Reads a whole number and a unit, as `30s`, `10m`, `2h` or `1d`, and returns seconds.
///
/// # Errors
/// What is wrong, in words: the form, or less than a second or more than `most`.
pub(super) fn parse_seconds(text: &str, most: Duration) -> Result<u64, String> {
    let form = || "write a whole number and a unit (s, m, h or d), such as 30s, 10m, 2h or 1d".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(form()),
    };
    let seconds =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(form)?;
    if seconds == 0 || seconds > most.as_secs() {
        return Err(format!("it must be 1s to {}d", most.as_secs() / 86_400));
    }
    Ok(seconds)
}

/// Reads a share in whole percent, with or without the sign.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn parse_percent(text: &str, least: u8, most: u8) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent = number.parse().ok().filter(|percent| (least..=most).contains(percent));
    percent.ok_or_else(|| format!("write a whole number from {least} to {most}, such as 50%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_a_unit() {
        let week = Duration::from_secs(7 * 86_400);
        let read = |text| parse_seconds(text, week);
        assert_eq!(["30s", "10m", "2h", "7d"].map(|text| read(text).unwrap()), [30, 600, 7_200, 604_800]);
        for bad in ["", "10", "m", "0s", "8d", "1.5h", "-1s", "99999999999999999999s", "1w", "forever"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(["50%", "0", "99 %"].map(|text| parse_percent(text, 0, 99).unwrap()), [50, 0, 99]);
        for bad in ["", "100%", "-1", "50%%", "0.5"] {
            assert!(parse_percent(bad, 0, 99).is_err(), "{bad}");
        }
    }
}
