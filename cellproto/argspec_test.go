package cellproto_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
)

const mixedInput = `{"type":"object","required":["n","s"],"properties":{
	"n":{"type":"integer"},"s":{"type":"string"},"x":{"type":"number"},"b":{"type":"boolean"},
	"l":{"type":"array"},"o":{"$ref":"#/$defs/Thing"},"m":{"type":["integer","null"]},
	"e":{"enum":["red","green"]},"any":true},
	"$defs":{"Thing":{"type":"object"}},"additionalProperties":false}`

func TestArguments(t *testing.T) {
	add := cellproto.Function{Order: []string{"a", "b"}, Input: json.RawMessage(
		`{"properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"required":["a","b"]}`)}
	mixed := cellproto.Function{Input: json.RawMessage(mixedInput), Order: []string{"n", "s"}}
	byRequired := cellproto.Function{Input: json.RawMessage(`{"properties":{"a":{},"z":{"type":"string"}},"required":["z"]}`)}
	root := cellproto.Function{Input: json.RawMessage(`{"$ref":"#/$defs/A","$defs":{"A":{"type":"object","properties":{"name":{"type":"string"}}}}}`)}
	for _, c := range []struct {
		f    cellproto.Function
		argv string // separated by |
		want string // JSON, or the error after "!"
	}{
		{add, "3|4", `{"a":3,"b":4}`},
		{add, "b=4|a=3", `{"a":3,"b":4}`},
		{add, "3|b=4", `{"a":3,"b":4}`},
		{add, "-3| 4 ", `{"a":-3,"b":4}`},
		{add, "1e2|4.0", `{"a":1e2,"b":4.0}`},
		{add, "123456789012345678901234567890|0", `{"a":123456789012345678901234567890,"b":0}`},
		{add, "3", "!the argument b:integer is missing"},
		{add, "3|four", `!the argument b:integer cannot be "four"`},
		{add, "3|4.5", `!the argument b:integer cannot be "4.5"`},
		{add, "3|1e-1", `!the argument b:integer cannot be "1e-1"`},
		{add, "3|", `!the argument b:integer cannot be ""`},
		{add, "3|4|5", `!argument 3, "5", is one too many`},
		{add, "a=3|4", `!argument 2, "4", has no name, but the one before has`},
		{add, "3|a=4", "!the argument a:integer is given twice"},
		{add, "3|4|c=5", `!there is no argument "c"`},
		{mixed, "1|s=x|anyy=5", `!there is no argument "anyy"; did you mean "any"?`},
		{mixed, "1|text", `{"n":1,"s":"text"}`},
		{mixed, "1|12", `{"n":1,"s":"12"}`},
		{mixed, `1|say "hi"`, `{"n":1,"s":"say \"hi\""}`},
		{mixed, "1|q=1", `{"n":1,"s":"q=1"}`},
		{mixed, "1|s=q=1", `{"n":1,"s":"q=1"}`},
		{mixed, "1|x|x=2|b=true|l=[1, 2]|o={\"k\":1}|m=null|e=red|any=5", `{"any":5,"b":true,"e":"red","l":[1, 2],"m":null,"n":1,"o":{"k":1},"s":"x","x":2}`},
		{mixed, "1|x|any=word", `{"any":"word","n":1,"s":"x"}`},
		{mixed, "1|x|x=two", `!the argument x:number cannot be "two"`},
		{mixed, "1|x|b=1", `!the argument b:boolean cannot be "1"`},
		{mixed, "1|x|l={}", `!the argument l:array cannot be "{}"`},
		{mixed, `1|x|o={"k":1,"k":2}`, `!the argument o:object cannot be "{\"k\":1,\"k\":2}"`},
		{mixed, "1|x|m=1.5", `!the argument m:null|integer cannot be "1.5"`},
		{mixed, "1|x\xff", `!the argument s:string cannot be "x\xff"`},
		{byRequired, "zz|1", `{"a":1,"z":"zz"}`},
		{root, "Ann", `{"name":"Ann"}`},
		{cellproto.Function{}, "", `{}`},
		{cellproto.Function{}, "k=1|w=word", `{"k":1,"w":"word"}`},
		{cellproto.Function{}, "1", `!argument 1, "1", is one too many`},
		{cellproto.Function{Input: json.RawMessage(`{"type":"object","properties":{}}`)}, "k=1", `!there is no argument "k"`},
	} {
		var argv []string
		if c.argv != "" {
			argv = strings.Split(c.argv, "|")
		}
		got, err := c.f.Arguments(argv)
		if message, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || err.Error() != "arguments: "+message || cellproto.KindOf(err) != cellproto.BadInput ||
				!strings.HasPrefix(cellproto.HintOf(err), "Expected: ") {
				t.Errorf("%q: %s, %v (%s), want %s", argv, got, err, cellproto.HintOf(err), message)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%q: %s, %v, want %s", argv, got, err, c.want)
			continue
		}
		if err := c.f.CheckArgs(got); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
	_, err := add.Arguments([]string{"s=" + strings.Repeat("x", cellproto.MaxArgs)})
	if err == nil {
		t.Error("256 KiB of argument")
	}
}

func TestSchemaArgumentsShowTheUsage(t *testing.T) {
	_, s := calculator(t)
	if got, err := s.Arguments("add", []string{"3", "4"}); err != nil || string(got) != `{"a":3,"b":4}` {
		t.Error(string(got), err)
	}
	_, err := s.Arguments("add", []string{"3"})
	if cellproto.HintOf(err) != "Usage: add a:integer b:integer" || cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("%v (%s)", err, cellproto.HintOf(err))
	}
	if _, err := s.Arguments("sub", nil); cellproto.KindOf(err) != cellproto.NotFound {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	for input, want := range map[string]string{
		`{"properties":{"a":{"type":"integer"},"b":{"type":"number"}},"required":["b"]}`: "f b:number [a:integer]",
		`{"properties":{"b":{"type":["number","integer","null"]}}}`:                      "f [b:null|number]",
		`{"properties":{"b":{"const":"x"}},"additionalProperties":true}`:                 "f [b:string] [name=value ...]",
		`{"type":"object","properties":{}}`:                                              "f",
		`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}}`:                        "f [name=value ...]",
		`{"properties":{"a":{"$ref":"https://example.org/x"}}}`:                          "f [a:any]",
		`true`: "f [name=value ...]",
	} {
		f := cellproto.Function{Input: json.RawMessage(input)}
		if got := f.Usage("f"); got != want {
			t.Errorf("%s: %q, want %q", input, got, want)
		}
	}
	f := cellproto.Function{Input: json.RawMessage(mixedInput), Order: []string{"n", "s"}}
	if got, want := f.Usage("f"), "f n:integer s:string [any=any] [b=boolean] [e=string] [l=array] [m=null|integer] [o=object] [x=number]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCheckArgs(t *testing.T) {
	f := cellproto.Function{Input: json.RawMessage(mixedInput)}
	for args, want := range map[string]string{
		`{"n":1,"s":"x"}`: "",
		" { \"n\" : 1.0 , \"s\" : \"x\" , \"any\" : [ ] } \n": "",
		`{"n":1,"s":"x","o":{"deeper":[{}]}}`:                 "",
		`{"n":1}`:                                             "the argument s:string is missing",
		`{"n":"1","s":"x"}`:                                   "the argument n:integer cannot be string",
		`{"n":1e400000000,"s":"x","x":"y"}`:                   "the argument x:number cannot be string",
		`{"n":1e-400000000,"s":"x"}`:                          "the argument n:integer cannot be number",
		`{"n":1e-99999999999999999999,"s":"x"}`:               "the argument n:integer cannot be number",
		`{"n":1.5,"s":"x"}`:                                   "the argument n:integer cannot be number",
		`{"n":1,"s":"x","q":1}`:                               `there is no argument "q"`,
		`{"n":1,"s":null}`:                                    "the argument s:string cannot be null",
		`[1,"x"]`:                                             "the arguments are not a JSON object",
		`null`:                                                "the arguments are not a JSON object",
		`{"n":1,"n":1,"s":"x"}`:                               `JSON byte 7: the key "n" occurs twice in one object`,
	} {
		err := f.CheckArgs([]byte(args))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", args, err)
		case want != "" && (err == nil || !strings.HasSuffix(err.Error(), want) || cellproto.KindOf(err) != cellproto.BadInput):
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}
