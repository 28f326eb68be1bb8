package compile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestLogging(t *testing.T) {
	yes, no := proto.Bool(true), proto.Bool(false)
	for name, test := range map[string]struct {
		logging *tandemv1.Logging
		want    *haproxyv1.Global
	}{
		"none": {nil, &haproxyv1.Global{LogFacility: "local0"}},
		"a server": {&tandemv1.Logging{Target: "[::1]:514", Facility: "user"},
			&haproxyv1.Global{LogTarget: "[::1]:514", LogFacility: "user"}},
		"a server, json": {&tandemv1.Logging{Target: "127.0.0.1:514", Format: "json"},
			&haproxyv1.Global{LogTarget: "127.0.0.1:514", LogFacility: "local0", LogFormat: haproxyv1.LogFormat_LOG_FORMAT_JSON, LogWithoutQuery: true}},
		"a file": {&tandemv1.Logging{Target: "file", Format: "haproxy", Query: no},
			&haproxyv1.Global{LogLocal: haproxyv1.LocalLog_LOCAL_LOG_FILE, LogFacility: "local0", LogWithoutQuery: true}},
		"journald": {&tandemv1.Logging{Target: "journald", Format: "json", Query: yes},
			&haproxyv1.Global{LogLocal: haproxyv1.LocalLog_LOCAL_LOG_JOURNALD, LogFacility: "local0", LogFormat: haproxyv1.LogFormat_LOG_FORMAT_JSON}},
		"syslog": {&tandemv1.Logging{Target: "syslog"},
			&haproxyv1.Global{LogLocal: haproxyv1.LocalLog_LOCAL_LOG_SYSLOG, LogFacility: "local0"}},
	} {
		c := apply(t, state.New("default", "epoch-1", 0), state.CreateCluster(&tandemv1.Cluster{Logging: test.logging}))
		got := haproxyGlobal(c).GetHaproxyGlobal()
		got.MaxConnections = 0
		if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
