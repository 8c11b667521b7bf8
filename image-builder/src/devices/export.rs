//! The list for other programs.

use serde::Serialize;
use serde_json::Value;

use super::store::Device;

/// The columns of the CSV, in order.
const COLUMNS: [&str; 12] = [
    "id",
    "serial",
    "model",
    "board",
    "image",
    "volume",
    "ek_name",
    "ak_name",
    "endorsement",
    "recipient",
    "created",
    "imported",
];

/// CSV with a header line (RFC 4180).
///
/// A field that a spreadsheet would take for a formula gets an apostrophe in front: a
/// record is foreign, and its model name could be one.
pub fn csv(devices: &[Device]) -> String {
    let line = |fields: Vec<String>| fields.join(",") + "\r\n";
    let mut text = line(COLUMNS.map(str::to_owned).to_vec());
    for device in devices {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        let number = |number: Option<i64>| number.map(|n| n.to_string()).unwrap_or_default();
        let fields = [
            device.id.to_string(),
            or_none(&device.serial),
            or_none(&device.model),
            device.board.clone(),
            device.image.clone(),
            device.volume.clone(),
            or_none(&device.ek_name),
            or_none(&device.ak_name),
            device.endorsement.clone(),
            or_none(&device.recipient),
            number(device.created),
            device.imported.to_string(),
        ];
        text.push_str(&line(fields.iter().map(|field| quoted(field)).collect()));
    }
    text
}

fn quoted(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let field = if formula { format!("'{field}") } else { field.to_owned() };
    if field.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

#[derive(Serialize)]
struct Export<'a> {
    schema: &'static str,
    devices: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    device: &'a Device,
    record: Value,
}

/// JSON: what the list knows, and each record as it came.
///
/// # Errors
/// None in practice: only records that are JSON come into the list.
pub fn json(devices: &[(Device, Vec<u8>)]) -> Result<Value, serde_json::Error> {
    let entries = devices
        .iter()
        .map(|(device, record)| Ok(Entry { device, record: serde_json::from_slice(record)? }));
    serde_json::to_value(Export {
        schema: "msec-boot/devices/1",
        devices: entries.collect::<Result<_, serde_json::Error>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device(model: &str) -> Device {
        Device {
            id: 7,
            imported: 1_800_000_001,
            created: None,
            image: "i".to_owned(),
            board: "rpi3".to_owned(),
            model: Some(model.to_owned()),
            serial: None,
            volume: "u".to_owned(),
            ek_name: Some("000b".to_owned()),
            ak_name: None,
            endorsement: "good: A, B".to_owned(),
            recipient: None,
        }
    }

    #[test]
    fn every_device_is_a_line_of_twelve_fields() {
        let text = csv(&[device("Raspberry Pi \"3\"")]);
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines[0].split(',').count(), 12);
        let expected = "7,,\"Raspberry Pi \"\"3\"\"\",rpi3,i,u,000b,,\"good: A, B\",,,1800000001";
        assert_eq!(lines[1..], [expected, ""]);
    }

    #[test]
    fn no_field_is_a_formula() {
        let text = csv(&[device("=HYPERLINK(\"http://x\")")]);
        assert!(text.contains(",\"'=HYPERLINK(\"\"http://x\"\")\","), "{text}");
    }

    #[test]
    fn json_has_the_record_as_it_came() {
        let value = super::json(&[(device("m"), b"{\"a\": [1]}".to_vec())]).unwrap();
        assert_eq!(value["devices"][0]["record"], json!({"a": [1]}));
        assert_eq!(value["devices"][0]["id"], 7);
    }
}
