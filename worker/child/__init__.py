"""The compute process of a job: started by the worker, fed by messages, killed with the job."""
