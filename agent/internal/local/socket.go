package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Socket is where an agent with that run directory listens.
func Socket(runDir string) string { return filepath.Join(runDir, "agent.sock") }

// listen opens the socket in place of one that an earlier agent left.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// caller is the process at the other end, as the kernel knew it when it
// connected (unix(7), SO_PEERCRED).
type caller struct {
	credentials.CommonAuthInfo
	uid, pid int
}

// AuthType implements credentials.AuthInfo.
func (caller) AuthType() string { return "unix" }

// peerCredentials are transport credentials that know who calls. Both ends are
// on this machine: nothing is encrypted.
type peerCredentials struct{}

var _ credentials.TransportCredentials = peerCredentials{}

// ServerHandshake asks the kernel.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("local socket: %T is no Unix socket", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return nil, nil, errors.Join(err, failed)
	}
	return conn, caller{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		uid:            int(cred.Uid), pid: int(cred.Pid),
	}, nil
}

// ClientHandshake is not used.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("local socket: for servers only")
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone implements credentials.TransportCredentials.
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }

// admit lets in root and the agent's own user, whatever the socket's mode.
func admit(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, ok := callerOf(ctx)
	if !ok || c.uid != 0 && c.uid != os.Geteuid() {
		return nil, status.Error(codes.PermissionDenied, "only root may do this: try it with sudo")
	}
	return handler(ctx, request)
}

func callerOf(ctx context.Context) (caller, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, false
	}
	c, ok := p.AuthInfo.(caller)
	return c, ok
}

// author names who calls: the user who logged in, also behind sudo or su, and
// else the one whom the process runs as.
func author(ctx context.Context) string {
	c, _ := callerOf(ctx)
	uid := strconv.Itoa(c.uid)
	login, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", c.pid))
	if text := strings.TrimSpace(string(login)); err == nil && text != noLogin {
		uid = text
	}
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "uid " + uid
}

// noLogin is the login user of a process that no login began (proc(5)).
const noLogin = "4294967295"
