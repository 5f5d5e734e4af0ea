-- The client that the whole VM shares; all VMs of a process that use it share one segment.

return require("chalk.client").new "chalk"
