package manifest

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/cli/internal/failure"
)

// The place of a mistake is shown, a secret on its line is not: neither when the
// file cannot be read nor when the controller refuses it.
func TestI10NoSecretIsInTheWordsForAMistake(t *testing.T) {
	for name, test := range map[string]struct{ text, field string }{
		"refused":            {"cluster:\n  vrrp:\n    auth_password: canary\n", "config.cluster.vrrp.auth_password"},
		"refused in JSON":    {`{"cluster": {"vrrp": {"authPassword": "canary"}}}`, "config.cluster.vrrp.auth_password"},
		"refused user":       {"cluster:\n  stats_page:\n    users:\n    - {name: admin, password: canary}\n", "config.cluster.stats_page.users[0].password"},
		"its neighbour":      {"cluster:\n  stats_page:\n    users: [{password: canary, name: admin}]\n", "config.cluster.stats_page.users[0].name"},
		"a list":             {"cluster:\n  vrrp:\n    auth_password: [canary]\n", ""},
		"a list below":       {"cluster:\n  vrrp:\n    auth_password:\n\n      - canary\n", ""},
		"a list, JSON name":  {"cluster:\n  vrrp:\n    'authPassword' :\n    - canary\n", ""},
		"an object":          {"cluster:\n  stats_page:\n    users:\n    - password:\n        canary: 1\n", ""},
		"a field beside it":  {"cluster:\n  vrrp: {version: 2, auth_password: canary, versio: 3}\n", ""},
		"in upper case":      {"cluster:\n  vrrp: {AUTH_PASSWORD: canary}\n", ""},
		"twice":              {"cluster:\n  vrrp:\n    auth_password: canary\n    auth_password: canary\n", ""},
		"a quote left open":  {"cluster:\n  vrrp:\n    auth_password: \"canary\n", ""},
		"a number for a map": {"cluster:\n  vrrp: 7\n  stats_page: {users: [{password: canary}], port: x}\n", ""},
	} {
		m, err := Read(strings.NewReader(test.text), "f.yaml")
		if test.field != "" {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			err = m.Locate(&failure.Error{Code: codes.InvalidArgument, Violations: []failure.Violation{{Field: test.field, Message: "is wrong", Reason: "FIELD_INVALID"}}})
			if !strings.Contains(err.Error(), "f.yaml:") {
				t.Errorf("%s: no place: %v", name, err)
			}
		}
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What holds none is shown as it is.
	_, err := Read(strings.NewReader("cluster:\n  vrrp:\n    auth_password: canary\n  max_connections: 0x\n"), "f.yaml")
	if err == nil || !strings.Contains(err.Error(), "max_connections: 0x") {
		t.Error(errors.Join(errors.New("the line is missing"), err))
	}
}
