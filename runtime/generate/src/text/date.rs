//! `strftime` for templates, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A moment, as the fields of a calendar.
struct Moment {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    day: i64,
    /// Days since the first of January.
    day_of_year: i64,
    /// From Monday, 0.
    weekday: usize,
    /// Seconds of the day.
    seconds: i64,
}

impl Moment {
    /// From seconds since 1970, by the Gregorian calendar. Years are counted from March, so that the leap day is the last.
    fn of(time: i64) -> Self {
        let (days, seconds) = (time.div_euclid(86_400), time.rem_euclid(86_400));
        let since = days + 719_468;
        let era = since.div_euclid(146_097);
        let of_era = since.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = (shifted + 2).rem_euclid(12);
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = if month < 2 { of_year - 306 } else { of_year + 59 + i64::from(leap) };
        Self {
            year,
            month: month as usize,
            day: of_year - (153 * shifted + 2) / 5 + 1,
            day_of_year,
            weekday: (days + 3).rem_euclid(7) as usize,
            seconds,
        }
    }
}

/// The current time as `format` says; directives that are not known stay as they are.
pub(super) fn now(format: &str) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    strftime(time, format)
}

fn strftime(time: i64, format: &str) -> String {
    let moment = Moment::of(time);
    let Moment { year, month, day, day_of_year, weekday, seconds } = moment;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (month_name, day_name) = (MONTHS[month], DAYS[weekday]);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let text = match characters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year.rem_euclid(100)),
            Some('m') => format!("{:02}", month + 1),
            Some('B') => month_name.to_string(),
            Some('b' | 'h') => month_name[..3].to_string(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('-') => match characters.next() {
                Some('d') => day.to_string(),
                Some('m') => (month + 1).to_string(),
                Some('H') => hour.to_string(),
                Some('I') => ((hour + 11) % 12 + 1).to_string(),
                Some('M') => minute.to_string(),
                other => ["%-".to_string(), other.map(String::from).unwrap_or_default()].concat(),
            },
            Some('j') => format!("{:03}", day_of_year + 1),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('F') => format!("{year}-{:02}-{day:02}", month + 1),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_string(),
            Some('z') => "+0000".to_string(),
            Some('%') => "%".to_string(),
            Some(other) => format!("%{other}"),
            None => "%".to_string(),
        };
        out.push_str(&text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(strftime(0, "%Y-%m-%d %H:%M:%S %A %j"), "1970-01-01 00:00:00 Thursday 001");
        assert_eq!(strftime(951_826_153, "%d %b %Y, %I:%M %p"), "29 Feb 2000, 12:09 PM");
        assert_eq!(
            strftime(1_735_689_599, "%a %e %B %y %F %T %-d %%"),
            "Tue 31 December 24 2024-12-31 23:59:59 31 %"
        );
        assert_eq!(strftime(1_735_603_200, "%j"), "366");
        assert_eq!(strftime(-1, "%F %q%"), "1969-12-31 %q%");
    }
}
