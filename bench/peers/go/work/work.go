// Package work has the tags, values and timing that the programs of all peers share.
//
// The arguments of a program are the name of the work and the seconds of a measure. It prints a line for each way to do
// that work: the way, a tab, the figure. It prints nothing for work that the peer cannot do.
package work

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Sequences have the length of a power of two, so that an index takes one instruction.
const (
	Length       = 1024
	Last         = Length - 1
	endpoints    = 40
	combinations = 80
	New          = 10000
	Counts       = 100000
	Histograms   = 10000
)

var Buckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

var (
	Endpoints, Statuses [Length]string
	Values              [Length]float64
	Steps               [Length]int
)

func init() {
	for i := range Length {
		combination := i % combinations
		Endpoints[i] = fmt.Sprint("/api/v1/resource/", combination%endpoints)
		Statuses[i] = Status(combination / endpoints)
		Values[i] = 0.001 * math.Pow(10, 3*float64((i*619)%Length)/Length)
		Steps[i] = 1 + (i*7)%8
	}
}

func Status(i int) string {
	if i%2 == 0 {
		return "success"
	}
	return "failure"
}

// Resources returns a distinct tag value for each of n series.
func Resources(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("/api/v1/resource/", i)
	}
	return list
}

// Measure has the nanoseconds of an iteration, the sum of all steps and the number of iterations.
type Measure struct {
	Ns    float64
	Total uint64
	Count uint64
}

// Time measures an iteration of f in one run of about the seconds, after warm-up runs that find out how many iterations
// that takes.
func Time(seconds float64, f func(n int)) Measure {
	return timeRuns(seconds, func(n int) float64 {
		started := time.Now()
		f(n)
		return time.Since(started).Seconds()
	})
}

// TimeThreads measures f in two goroutines at once and returns the mean of both.
func TimeThreads(seconds float64, f func(n int)) Measure {
	return timeRuns(seconds, func(n int) float64 {
		var ready, done sync.WaitGroup
		var took [2]float64
		ready.Add(2)
		for i := range took {
			done.Add(1)
			go func() {
				defer done.Done()
				ready.Done()
				ready.Wait()
				started := time.Now()
				f(n)
				took[i] = time.Since(started).Seconds()
			}()
		}
		done.Wait()
		return (took[0] + took[1]) / 2
	})
}

func timeRuns(seconds float64, run func(n int) float64) Measure {
	var m Measure
	once := func(n int) float64 {
		took := run(n)
		m.Count += uint64(n)
		whole, rest := 0, 0
		for i, step := range Steps {
			whole += step
			if i < n%Length {
				rest += step
			}
		}
		m.Total += uint64(n/Length*whole + rest)
		return took
	}
	n := 20000
	once(n)
	for {
		took := once(n)
		if took > seconds/4 {
			n = max(1, int(float64(n)*seconds/took))
			break
		}
		n *= 4
	}
	m.Ns = once(n) / float64(n) * 1e9
	return m
}

var sink int

// Empty measures the loop alone, with the reads that the other loops have too.
func Empty(seconds float64) float64 {
	return Time(seconds, func(n int) {
		sum := 0
		for i := range n {
			sum += Steps[i&Last]
		}
		sink = sum
	}).Ns
}

// TimeNew measures first records: 10,000 series in each of five new metrics. The figure is the median of the five.
func TimeNew(family func(name string, resources []string)) float64 {
	resources := Resources(New)
	times := make([]float64, 5)
	for i := range times {
		started := time.Now()
		family(fmt.Sprint("new_", i), resources)
		times[i] = time.Since(started).Seconds() / New * 1e9
	}
	sort.Float64s(times)
	return times[2]
}

// PrintText prints the milliseconds of a rendering and the number of its samples.
func PrintText(way string, seconds float64, render func(out *bytes.Buffer)) {
	var out bytes.Buffer
	render(&out)
	lines := 0
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "#") {
			lines++
		}
	}
	var times []float64
	for sum := 0.0; sum < seconds || len(times) == 0; sum += times[len(times)-1] {
		out.Reset()
		started := time.Now()
		render(&out)
		times = append(times, time.Since(started).Seconds())
	}
	sort.Float64s(times)
	fmt.Printf("%s\t%g\t%d lines\n", way, times[len(times)/2]*1e3, lines)
}

// Memory returns the bytes that a series adds to the process's resident memory, computed from n series. Freed memory is
// returned to the system before each reading.
func Memory(n int, fill func(resources []string)) float64 {
	resources := Resources(n)
	before := resident()
	fill(resources)
	return (resident() - before) / float64(n)
}

func resident() float64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "Rss:" {
			kilobytes, _ := strconv.ParseFloat(fields[1], 64)
			return kilobytes * 1024
		}
	}
	panic("/proc/self/smaps_rollup has no line Rss")
}

// Recorded returns the lognormal values that are recorded into each histogram whose memory is measured.
func Recorded(n int) []float64 {
	state := 20240229
	uniform := func() float64 {
		state = state * 48271 % 2147483647
		return float64(state) / 2147483647
	}
	values := make([]float64, n)
	for i := range values {
		radius := math.Sqrt(-2 * math.Log(uniform()))
		values[i] = 0.02 * math.Exp(0.5*radius*math.Cos(2*math.Pi*uniform()))
	}
	return values
}

func Check(expected, found uint64) {
	if expected != found {
		panic(fmt.Sprint("the peer has ", found, ", expected ", expected))
	}
}

func Print(way string, figure float64) {
	fmt.Printf("%s\t%g\n", way, figure)
}

// Arguments returns the name of the work and the seconds of a measure, from the command line.
func Arguments() (string, float64) {
	seconds, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		panic(err)
	}
	return os.Args[1], seconds
}
