package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds every wait for a process, which takes far less.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lbctl": main})
}

// TestScripts runs lbctl against a real lb-controller, one a script. Scripts in
// testdata/agent have a real lb-agent with a real HAProxy too.
func TestScripts(t *testing.T) {
	controller := binary(t, "TANDEM_CONTROLLER_BIN", "lb-controller")
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Cmds:  commands(controller, ""),
		Setup: func(env *testscript.Env) error { return startController(env, controller) },
	})
}

func TestAgentScripts(t *testing.T) {
	controller, agent := binary(t, "TANDEM_CONTROLLER_BIN", "lb-controller"), binary(t, "TANDEM_AGENT_BIN", "lb-agent")
	if os.Geteuid() != 0 {
		t.Skip("lb-agent starts HAProxy as root: run as root, or make test, which uses sudo")
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skip("haproxy is not installed: make deps installs it")
	}
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/agent",
		Cmds:  commands(controller, agent),
		Setup: func(env *testscript.Env) error { return startController(env, controller) },
	})
}

// binary finds a program that make build makes.
func binary(t *testing.T, variable, name string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		path = filepath.Join("..", "..", "..", "bin", name)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built: run make build, or set %s", name, variable)
	}
	return path
}

// commands are what scripts have beside testscript's own.
func commands(controller, agent string) map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		// exits CODE lbctl ARGS... expects an exit code.
		"exits": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			got := 0
			var exit *exec.ExitError
			if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
				got = exit.ExitCode()
			} else {
				ts.Check(err)
			}
			if got != want {
				ts.Fatalf("exit code %d, want %d", got, want)
			}
		},
		// big FILE makes a file of 100 MB.
		"big": func(ts *testscript.TestScript, _ bool, args []string) {
			file, err := os.Create(ts.MkAbs(args[0]))
			ts.Check(err)
			ts.Check(errors.Join(file.Truncate(100<<20), file.Close()))
		},
		// mode FILE MODE expects permissions, in octal.
		"mode": func(ts *testscript.TestScript, _ bool, args []string) {
			info, err := os.Stat(ts.MkAbs(args[0]))
			ts.Check(err)
			if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[1] {
				ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
			}
		},
		// eventually TEXT lbctl ARGS... runs it until its output holds the text.
		"eventually": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(wait(func() error {
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					return err
				}
				if out := ts.ReadFile("stdout"); !strings.Contains(out, args[0]) {
					return fmt.Errorf("%q is not in\n%s", args[0], out)
				}
				return nil
			}))
		},
		// envsubst FILE replaces the variables in a file.
		"envsubst": func(ts *testscript.TestScript, _ bool, args []string) {
			text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
		},
		// follow FILE lbctl ARGS... runs it with its output in a file until the
		// script ends.
		"follow": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(follow(ts, ts.MkAbs(args[0]), args[1], args[2:]))
		},
		// agent CONFIG runs an agent, and HAProxy by it, until the script ends.
		"agent": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(startAgent(ts, agent, ts.MkAbs(args[0])))
		},
		// restart stops the controller as a crash does, and starts it again.
		"restart": func(ts *testscript.TestScript, _ bool, _ []string) {
			process := ts.Value(processKey{}).(*process)
			process.stop(syscall.SIGKILL)
			ts.Check(process.start(controller, ts.MkAbs("data"), ts.Getenv("LBCTL_SERVER")))
		},
	}
}

// wait tries until it succeeds.
func wait(try func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

type processKey struct{}

// process is a controller.
type process struct {
	command *exec.Cmd
}

func startController(env *testscript.Env, binary string) error {
	server, err := freeAddress()
	if err != nil {
		return err
	}
	data := filepath.Join(env.WorkDir, "data")
	p := &process{}
	if err := p.start(binary, data, server); err != nil {
		return err
	}
	env.Defer(func() { p.stop(syscall.SIGTERM) })
	env.Values[processKey{}] = p
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("LBCTL_SERVER", server)
	env.Setenv("LBCTL_CA", filepath.Join(data, "ca.pem"))
	env.Setenv("LBCTL_TOKEN_FILE", filepath.Join(data, "admin.token"))
	_, reserved, _ := net.SplitHostPort(server)
	env.Setenv("RESERVED", reserved) // a port on which the controller listens
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = other.Close() })
	_, taken, _ := net.SplitHostPort(other.Addr().String())
	env.Setenv("TAKEN", taken) // a port on which something else listens
	free, err := freeAddress()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(free)
	env.Setenv("PORT", port)
	return nil
}

// start runs the controller and waits until it answers.
func (p *process) start(binary, data, server string) error {
	web, err := freeAddress()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(data+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.command = exec.Command(binary, "serve", "--data-dir", data, "--grpc-listen", server, "--http-listen", web)
	p.command.Stdout, p.command.Stderr = log, log
	if err := p.command.Start(); err != nil {
		return err
	}
	err = wait(func() error {
		// It listens before it has written what clients need.
		if _, err := os.Stat(filepath.Join(data, "admin.token")); err != nil {
			return err
		}
		conn, err := net.Dial("tcp", server)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(data + ".log")
		p.stop(syscall.SIGKILL)
		return fmt.Errorf("lb-controller: %w\n%s", err, text)
	}
	return nil
}

func (p *process) stop(signal os.Signal) {
	_ = p.command.Process.Signal(signal)
	_ = p.command.Wait()
}

func startAgent(ts *testscript.TestScript, binary, config string) error {
	log, err := os.Create(config + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(binary, "run", "--config", config)
	command.Dir = filepath.Dir(config)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return err
	}
	ts.Defer(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		// HAProxy outlives its agent: that is what the agent is for.
		if pid, err := os.ReadFile(filepath.Join(filepath.Dir(config), "run", "haproxy", "pid")); err == nil {
			if number, err := strconv.Atoi(strings.Fields(string(pid))[0]); err == nil {
				_ = syscall.Kill(number, syscall.SIGKILL)
			}
		}
	})
	return nil
}

func follow(ts *testscript.TestScript, path, program string, args []string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	command := exec.Command(program, args...)
	command.Stdout = file
	for _, name := range []string{"HOME", "PATH", "LBCTL_SERVER", "LBCTL_CA", "LBCTL_TOKEN_FILE"} {
		command.Env = append(command.Env, name+"="+ts.Getenv(name))
	}
	if err := command.Start(); err != nil {
		return err
	}
	ts.Defer(func() {
		_ = command.Process.Signal(os.Interrupt)
		_ = command.Wait()
	})
	return nil
}

// nextPort is below the ports that the kernel gives to clients, so that no
// connection takes one that was found free.
var nextPort atomic.Int32

func freeAddress() (string, error) {
	nextPort.CompareAndSwap(0, int32(20000+os.Getpid()%5000))
	for range 1000 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(nextPort.Add(1))))
		if listener, err := net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", errors.New("no free port of 1000")
}
