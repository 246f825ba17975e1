use super::*;

fn render(source: &str, messages: &str) -> Result<String, String> {
    let tokens = vec![("bos_token".to_string(), "<s>".to_string())];
    let template = ChatTemplate::new(source.into(), tokens, "t.json".into());
    template.render(messages, None, true).map_err(|error| error.to_string())
}

const TALK: &str = r#"[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Ho "}]"#;

#[test]
fn a_conversation_becomes_a_prompt() {
    let source = "{{ bos_token }}{%- for m in messages %}\n    {%- if m['role'] == 'user' %}\n[{{ m.content.strip() }}]\n    \
                  {%- else %}\n{{ m['content'].lstrip() + '|' }}\n    {%- endif %}\n{%- endfor %}\n\
                  {% if add_generation_prompt %}\n>>\n{% endif %}\n";
    assert_eq!(render(source, TALK).unwrap(), "<s>[Hi]Ho |>>\n");
    let marks = "{% for m in messages %}{%- generation -%} {{ m.role }} {% endgeneration %}{% endfor %}";
    assert_eq!(render(marks, TALK).unwrap(), "user assistant ");
}

#[test]
fn json_is_written_as_python_does() {
    let messages = r#"[{"z": 1, "a": [1.5, true, null, "é\"<"], "e": {}}]"#;
    let written = render("{{ messages[0] | tojson }}", messages).unwrap();
    assert_eq!(written, r#"{"z": 1, "a": [1.5, true, null, "é\"<"], "e": {}}"#);
    let indented = render("{{ messages[0]['a'] | tojson(indent=2) }}", messages).unwrap();
    assert_eq!(indented, "[\n  1.5,\n  true,\n  null,\n  \"é\\\"<\"\n]");
    let sorted = "{{ messages[0] | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}";
    assert_eq!(render(sorted, messages).unwrap(), r#"{"a":[1.5,true,null,"\u00e9\"<"],"e":{},"z":1}"#);
}

#[test]
fn templates_have_what_transformers_gives_them() {
    assert_eq!(
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "[]")
            .unwrap(),
        "01"
    );
    assert_eq!(render("{{ strftime_now('%Y') | length }}", "[]").unwrap(), "4");
    let raised = render("{{ raise_exception('roles must alternate') }}", "[]").unwrap_err();
    assert!(
        raised.contains("t.json: chat template: ") && raised.contains("roles must alternate"),
        "{raised}"
    );
    let namespace =
        "{% set ns = namespace(x=1) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}";
    assert_eq!(render(namespace, TALK).unwrap(), "3");
    assert_eq!(render("{{ tools is none }} {{ tools is defined }}", "[]").unwrap(), "True True");
}

/// `tools.txt` is what Jinja 3.1 makes of the other files in the environment that transformers gives to templates: a sandbox with
/// `trim_blocks`, `lstrip_blocks`, loop controls and `tojson` by Python's `json.dumps(ensure_ascii=False)`.
#[test]
fn functions_and_their_calls_are_written_as_transformers_does() {
    let template = ChatTemplate::new(include_str!("fixtures/tools.jinja").into(), Vec::new(), "t".into());
    let talk = include_str!("fixtures/talk.json");
    let rendered = template.render(talk, Some(include_str!("fixtures/tools.json")), true).unwrap();
    assert_eq!(rendered, include_str!("fixtures/tools.txt"));
    let without = template.render(talk, None, false).unwrap();
    assert!(without.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"), "{without}");
    assert!(without.ends_with("Thanks<|im_end|>\n"), "{without}");
}

#[test]
fn what_would_not_end_is_an_error() {
    for source in [
        "{% if %}",
        "{{ 1 // 0 }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(1000000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for i in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 50000000 }}",
    ] {
        assert!(render(source, "[]").is_err(), "{source}");
    }
    let nested = ["{% if true %}".repeat(3000), "{% endif %}".repeat(3000)].concat();
    assert!(render(&nested, "[]").is_err());
    assert!(render("x", "not JSON").unwrap_err().contains("not JSON"));
}

#[test]
fn templates_are_found_beside_a_model() {
    let folder = std::env::temp_dir().join(format!("lathe-template-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let find = |name: Option<&str>| ChatTemplate::find(&folder, name);
    assert!(matches!(find(None), Err(TemplateError::None { .. })));
    let config = r#"{"eos_token": {"content": "</s>"}, "chat_template": [{"name": "default", "template": "D{{ eos_token }}"},
        {"name": "tool_use", "template": "T"}]}"#;
    write("tokenizer_config.json", config);
    assert_eq!(find(None).unwrap().render("[]", None, false).unwrap(), "D</s>");
    assert_eq!(find(Some("tool_use")).unwrap().render("[]", None, false).unwrap(), "T");
    write("chat_template.jinja", "J");
    assert_eq!(
        ChatTemplate::find(&folder.join("model.onnx"), None).unwrap().render("[]", None, false).unwrap(),
        "J"
    );
    let named = ChatTemplate::find(&folder.join("tokenizer_config.json"), None).unwrap();
    assert_eq!(named.render("[]", None, false).unwrap(), "D</s>");
    std::fs::remove_dir_all(&folder).unwrap();
}
