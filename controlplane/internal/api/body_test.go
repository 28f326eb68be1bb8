package api

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What the scanner lets through means to protojson what it meant before, and
// what protojson takes the scanner does not refuse.
func FuzzScan(f *testing.F) {
	for _, body := range []string{
		`{"name":"p","check":{"interval":"500ms","http":{"path":"/x"}},"connectTimeout":"1.5s","connect_timeout":"1s"}`,
		`{"backends":[{"name":"a","weight":"5","port":80.0},null],"retries":1e1,"redispatch":true}`,
		"\ufeff{}", `{"a":[[[{"b":"}"}]]]}`, `{"check":null}`, `{`, `[]`, `{}x`, `{"name":"\ud800"}`, `{"queueTimeout":"-1.5s"}`, "{\"name\":\"\xff\"}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var plain, read tandemv1.Pool
		plainErr := protojson.Unmarshal(body, &plain)
		scanned, err := scan(body, plain.ProtoReflect().Descriptor(), "")
		if err != nil {
			if plainErr == nil {
				t.Errorf("protojson takes it, the scanner says: %v", err)
			}
			return
		}
		readErr := protojson.Unmarshal(scanned, &read)
		switch {
		case plainErr == nil && (readErr != nil || !proto.Equal(&plain, &read)):
			t.Errorf("%s\nbecame %s: %v", body, scanned, readErr)
		case plainErr != nil && readErr == nil && !strings.Contains(string(body), "s\""):
			t.Errorf("only rewritten it is read: %s\nbecame %s", body, scanned)
		}
	})
}

func TestScanNamesEveryMistakeAtOnce(t *testing.T) {
	body := `{"nme":"p","check":{"interval":"soon","rise":-1,"http":{"method":1}},"retries":[{"a":1}]}`
	_, err := scan([]byte(body), (&tandemv1.Pool{}).ProtoReflect().Descriptor(), "pool")
	for _, field := range []string{"pool.nme", "pool.check.interval", "pool.check.rise", "pool.check.http.method", "pool.retries"} {
		if err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}

func TestScanSaysWhereJSONEnds(t *testing.T) {
	_, err := scan([]byte("{\n  \"name\": \"p\",\n  \"balance\" \"first\"\n}"), (&tandemv1.Pool{}).ProtoReflect().Descriptor(), "")
	if err == nil || !strings.Contains(err.Error(), "line 3, column 13") {
		t.Errorf("got %v; want line 3, column 13", err)
	}
}
