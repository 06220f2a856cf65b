// client n_A n_B IP_A IP_B: n_A files of server A, the next n_B of server B, and so on; both at once.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

// store writes an answer's body to a file, which has its name only when it is whole.
func store(name string, body io.Reader) error {
	file, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(file, body); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}

// fetch brings files one after another, on one connection.
func fetch(ip string, names []string) error {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}}
	for _, name := range names {
		answer, err := client.Get("http://" + ip + ":4455/" + name)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s for %s", ip, answer.Status, name)
		}
		err = store(name, answer.Body)
		answer.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func main() {
	nA, _ := strconv.Atoi(os.Args[1])
	nB, _ := strconv.Atoi(os.Args[2])
	list, err := os.ReadFile(os.Getenv("FILES"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var shares [2][]string
	for at, name := range strings.Fields(string(list)) {
		server := 0
		if at%(nA+nB) >= nA {
			server = 1
		}
		shares[server] = append(shares[server], name)
	}
	var both sync.WaitGroup
	failed := make(chan error, 2)
	for server, names := range shares {
		both.Add(1)
		go func(ip string, names []string) {
			defer both.Done()
			failed <- fetch(ip, names)
		}(os.Args[3+server], names)
	}
	both.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
